"""Images in tables: a data set of the Hugging Face Hub, or a local folder of parquet, arrow or webdataset files.

The `datasets` library reads the tables. The images are decoded here, so that a damaged one is the same error as
everywhere else in the package.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.data.decoding import UnreadableImageError, decode_rgb
from synco_hub.data.image_dataset import UNLABELED, DatasetDescription, ImageDataset, fingerprint

TEST_SPLITS = ("test", "validation", "val")


@dataclass(frozen=True)
class HubSource:
    """Which table.

    Attributes:
        dataset_id: `namespace/name` on the Hub, or a local folder.
        config: Configuration of the data set; None takes its only one.
        revision: Commit, branch or tag on the Hub.
        data_dir: Folder inside the repository.
        image_column: None takes the only column of images.
        label_column: None takes the only column of classes, or the one named `label`.
        cache_dir: Where downloads are kept; None takes the `datasets` library's own folder.
    """

    dataset_id: str
    config: str | None = None
    revision: str | None = None
    data_dir: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    cache_dir: str | None = None


class HubImageDataset(ImageDataset):
    """Rows of a table that was read by the `datasets` library.

    Args:
        table: A map-style `datasets.Dataset` whose image column is not decoded.
        image_column: Column of encoded images.
        labels: One class index per row.
        class_names: In label order.
        description: What to say about the data set.
    """

    def __init__(
        self,
        table: Any,
        image_column: str,
        labels: npt.NDArray[np.int64],
        class_names: Sequence[str],
        description: DatasetDescription,
    ) -> None:
        super().__init__(labels, class_names, description)
        self._table = table.select_columns([image_column])
        self._image_column = image_column

    def load_image(self, index: int) -> Image.Image:
        """Decodes one row."""
        cell = self._cell(index)
        name = _cell_name(cell, index)
        if isinstance(cell, Mapping):
            if cell.get("bytes"):
                return decode_rgb(cell["bytes"], name)
            if cell.get("path"):
                return decode_rgb(cell["path"], name)
            raise UnreadableImageError(name, "the cell is empty")
        if isinstance(cell, bytes):
            return decode_rgb(cell, name)
        raise UnreadableImageError(name, f"the cell holds {type(cell).__name__}, not an encoded image")

    def name(self, index: int) -> str:
        """The stored file name with its row, or the row alone."""
        return _cell_name(self._cell(index), index)

    def _cell(self, index: int) -> Any:
        return self._table[range(len(self))[index]][self._image_column]


def load_hub_dataset(source: HubSource, split: str = "train") -> HubImageDataset:
    """Loads one split of a table, map-style.

    Args:
        source: Which table and columns.
        split: `train`; `test`, which takes the first of the splits test, validation and val that has labels; or any
            split expression of the `datasets` library, such as `train+validation`.

    Returns:
        The rows in stored order.

    Raises:
        ImportError: If the `datasets` library is not installed.
        ValueError: If the data set, the split or a column cannot be found, or the labels are no classes.
    """
    library = _datasets_library(source.dataset_id)
    tried = [split]
    if split == "test":
        present = _call(source, library.get_dataset_split_names, source.dataset_id, source.config, source.revision)
        tried = [name for name in TEST_SPLITS if name in present]
        if not tried:
            raise ValueError(
                f"{source.dataset_id}: no test split among {', '.join(present)}; name one with its own name, or use "
                "the data set for pretraining only."
            )
    for stored_split in tried:
        dataset = _loaded(library, source, split, stored_split)
        if dataset.is_labeled:
            return dataset
    return dataset


def _loaded(library: Any, source: HubSource, split: str, stored_split: str) -> HubImageDataset:
    table = _call(
        source,
        library.load_dataset,
        source.dataset_id,
        name=source.config,
        split=stored_split,
        revision=source.revision,
        data_dir=source.data_dir,
        cache_dir=source.cache_dir,
    )
    image_column = _image_column(library, table, source)
    label_column = _label_column(library, table, source)
    labels, class_names = _labels(library, table, label_column, source)
    table = table.cast_column(image_column, library.Image(decode=False))
    identity = (source.dataset_id.rstrip("/").rsplit("/", 1)[-1], stored_split, image_column, label_column or "")
    description = DatasetDescription(
        name=source.dataset_id,
        source=source.dataset_id + (f" at revision {source.revision}" if source.revision else ""),
        split=split,
        num_images=len(table),
        num_classes=len(class_names),
        split_rule=f"split {stored_split} as published",
        fingerprint=fingerprint(identity, class_names, labels),
    )
    return HubImageDataset(table, image_column, labels, class_names, description)


def _datasets_library(dataset_id: str) -> Any:
    try:
        # Not at the top: the library takes a second to import, and folders and fractals must work without it.
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(
            f"{dataset_id}: reading Hub data sets and parquet files needs the `datasets` library; install it with "
            "`pip install datasets`, or give a folder of image files."
        ) from error


def _call(source: HubSource, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Turns the many errors of a failed download into one line."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ValueError(
            f"{source.dataset_id}: the datasets library cannot load it ({type(error).__name__}: {reason}); check the "
            "name, the connection, and for gated data sets the accepted licence and HF_TOKEN."
        ) from error


def _image_column(library: Any, table: Any, source: HubSource) -> str:
    columns = list(table.features)
    if source.image_column is not None:
        if source.image_column not in columns:
            raise ValueError(_no_column(source, "image", source.image_column, columns))
        return source.image_column
    images = [name for name, feature in table.features.items() if isinstance(feature, library.Image)]
    if len(images) != 1:
        found = f"{len(images)} columns of images" if images else "no column of images"
        raise ValueError(
            f"{source.dataset_id}: {found} among {', '.join(columns)}; name the right one with --image-column."
        )
    return str(images[0])


def _label_column(library: Any, table: Any, source: HubSource) -> str | None:
    columns = list(table.features)
    if source.label_column is not None:
        if source.label_column not in columns:
            raise ValueError(_no_column(source, "label", source.label_column, columns))
        return source.label_column
    classes = [name for name, feature in table.features.items() if isinstance(feature, library.ClassLabel)]
    if "label" in columns:
        return "label"
    if len(classes) > 1:
        raise ValueError(
            f"{source.dataset_id}: {len(classes)} columns of classes ({', '.join(classes)}); name the right one with "
            "--label-column."
        )
    return classes[0] if classes else "cls" if "cls" in columns else None


def _no_column(source: HubSource, kind: str, given: str, columns: list[str]) -> str:
    return f"{source.dataset_id}: no column {given!r}; give --{kind}-column one of {', '.join(columns)}."


def _labels(
    library: Any, table: Any, column: str | None, source: HubSource
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Class indices and names: of a ClassLabel as published, of integers as they are, of strings in sorted order."""
    if column is None:
        return np.full(len(table), UNLABELED, dtype=np.int64), []
    feature, values = table.features[column], table.select_columns([column])[:][column]
    if isinstance(feature, library.ClassLabel):
        labels = np.array([UNLABELED if value is None else value for value in values], dtype=np.int64)
        return labels, list(feature.names)
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int}:
        labels = np.array([UNLABELED if value is None else value for value in values], dtype=np.int64)
        return labels, [str(number) for number in range(int(labels.max(initial=UNLABELED)) + 1)]
    if kinds == {str}:
        class_names = sorted({value for value in values if value is not None})
        index: dict[str | None, int] = {name: number for number, name in enumerate(class_names)}
        return np.array([index.get(value, UNLABELED) for value in values], dtype=np.int64), class_names
    raise ValueError(
        f"{source.dataset_id}: column {column!r} holds {', '.join(sorted(kind.__name__ for kind in kinds))}, but a "
        "class is an integer or a string; name another column with --label-column."
    )


def _cell_name(cell: Any, index: int) -> str:
    path = cell.get("path") if isinstance(cell, Mapping) else None
    return f"{path} (row {index})" if path else f"row {index}"
