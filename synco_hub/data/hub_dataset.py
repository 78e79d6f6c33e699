"""Images in tables: a data set of the Hugging Face Hub, or a local folder of parquet, arrow or webdataset files.

The `datasets` library reads the tables. The images are decoded here, so that a damaged one is the same error as
everywhere else in the package.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.data.decoding import UnreadableImageError, decode_pixels, decode_rgb
from synco_hub.data.image_dataset import UNLABELED, DatasetDescription, ImageDataset, fingerprint
from synco_hub.data.multi_hot import multi_hot_of_lists, without_difficult

TEST_SPLITS = ("test", "validation", "val")
# As `synco-hub data prepare` writes several classes an image: those that are there, and those with instances that are
# too difficult to count.
LABELS_COLUMN = "labels"
DIFFICULT_COLUMN = "difficult"


@dataclass(frozen=True)
class HubSource:
    """Which table.

    Attributes:
        dataset_id: `namespace/name` on the Hub, or a local folder.
        config: Configuration of the data set; None takes its only one.
        revision: Commit, branch or tag on the Hub.
        data_dir: Folder inside the repository.
        image_column: None takes the only column of images.
        label_column: None takes the only column of classes, or the one named `label` or `labels`.
        cache_dir: Where downloads are kept; None takes the `datasets` library's own folder.
        optional_columns: The columns above are taken where the table has them, else found by their type.
        num_classes: Number of classes where an image can have several, if the table has no names for them.
    """

    dataset_id: str
    config: str | None = None
    revision: str | None = None
    data_dir: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    cache_dir: str | None = None
    optional_columns: bool = False
    num_classes: int | None = None


class HubImageDataset(ImageDataset):
    """Rows of a table that was read by the `datasets` library.

    Args:
        table: A map-style `datasets.Dataset` whose image column is not decoded.
        image_column: Column of encoded images.
        labels: One class index per row.
        class_names: In label order.
        description: What to say about the data set.
        multi_hot: For several classes an image. Shape: (num_images, num_classes).

    Attributes:
        stored_class_names: As the table has them, where `class_names` were replaced; None else.
    """

    stored_class_names: list[str] | None = None

    def __init__(
        self,
        table: Any,
        image_column: str,
        labels: npt.NDArray[np.int64],
        class_names: Sequence[str],
        description: DatasetDescription,
        multi_hot: npt.NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(labels, class_names, description)
        self.multi_hot = multi_hot
        self._table = table.select_columns([image_column])
        self._image_column = image_column

    def load_image(self, index: int) -> Image.Image:
        """Decodes one row."""
        cell = self._cell(index)
        return decode_rgb(_cell_bytes(cell, index), _cell_name(cell, index))

    def load_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Decodes one row to an array."""
        cell = self._cell(index)
        return decode_pixels(_cell_bytes(cell, index), _cell_name(cell, index))

    def encoded(self, index: int) -> bytes:
        """The stored bytes."""
        return _cell_bytes(self._cell(index), index)

    def encoded_sizes(self) -> npt.NDArray[np.int64] | None:
        """Bytes of each stored image, read without the images; None where not all lie in the table itself.

        Shape: (num_images,).
        """
        table = self._table
        chunks = table.data.column(self._image_column).chunks if table._indices is None else []
        try:
            # The library brings pyarrow along.
            measure = importlib.import_module("pyarrow.compute").binary_length
            sizes = [measure(getattr(chunk, "storage", chunk).field("bytes")) for chunk in chunks]
        except (AttributeError, KeyError):
            return None
        if sum(map(len, sizes)) != len(self) or any(part.null_count for part in sizes):
            return None
        return np.array([size for part in sizes for size in part.to_pylist()], dtype=np.int64)

    def file_names(self) -> list[str]:
        """The stored file names, read without the images beside them."""
        table = self._table
        if table._indices is None:
            column = table.data.column(self._image_column)
            paths = [path for chunk in column.chunks for path in _paths_of(chunk)]
            if len(paths) == len(self):
                return [path or f"row {index}" for index, path in enumerate(paths)]
        return [_cell_path(self._cell(index)) or f"row {index}" for index in range(len(self))]

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
        present = split_names(source)
        tried = [name for name in TEST_SPLITS if name in present]
        if not tried:
            raise ValueError(
                f"{source.dataset_id}: no test split among {', '.join(present)}; name one with its own name, or use "
                "the data set for pretraining only."
            )
    for stored_split in tried:
        dataset = _loaded(library, source, split, stored_split)
        if dataset.is_labeled or dataset.multi_hot is not None:
            return dataset
    return dataset


def split_names(source: HubSource) -> list[str]:
    """The splits that a table has.

    Raises:
        ImportError: If the `datasets` library is not installed.
        ValueError: If the data set cannot be found.
    """
    library = _datasets_library(source.dataset_id)
    names: list[str] = _call(
        source,
        library.get_dataset_split_names,
        source.dataset_id,
        source.config,
        revision=source.revision,
        data_dir=source.data_dir,
    )
    return names


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
    multi_hot = None
    if label_column is not None and _is_list(library, table.features[label_column]):
        multi_hot, class_names = _multi_hot(library, table, label_column, source)
        labels = np.full(len(table), UNLABELED, dtype=np.int64)
    else:
        labels, class_names = _labels(library, table, label_column, source)
    table = _with_encoded_images(library, table, image_column, source)
    identity = (source.dataset_id.rstrip("/").rsplit("/", 1)[-1], stored_split, image_column, label_column or "")
    description = DatasetDescription(
        name=source.dataset_id,
        source=source.dataset_id + (f" at revision {source.revision}" if source.revision else ""),
        split=split,
        num_images=len(table),
        num_classes=len(class_names),
        split_rule=f"split {stored_split} as published",
        fingerprint=fingerprint(identity, class_names, labels if multi_hot is None else multi_hot.astype(np.int64)),
    )
    return HubImageDataset(table, image_column, labels, class_names, description, multi_hot)


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
    if source.image_column is not None and not (source.optional_columns and source.image_column not in columns):
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
    if source.label_column is not None and not (source.optional_columns and source.label_column not in columns):
        if source.label_column not in columns:
            raise ValueError(_no_column(source, "label", source.label_column, columns))
        return source.label_column
    classes = [name for name, feature in table.features.items() if isinstance(feature, library.ClassLabel)]
    for usual in ("label", LABELS_COLUMN):
        if usual in columns:
            return usual
    if len(classes) > 1:
        raise ValueError(
            f"{source.dataset_id}: {len(classes)} columns of classes ({', '.join(classes)}); name the right one with "
            "--label-column."
        )
    return classes[0] if classes else "cls" if "cls" in columns else None


def _no_column(source: HubSource, kind: str, given: str, columns: list[str]) -> str:
    return f"{source.dataset_id}: no column {given!r}; give --{kind}-column one of {', '.join(columns)}."


def _with_encoded_images(library: Any, table: Any, column: str, source: HubSource) -> Any:
    feature = table.features[column]
    dtype = str(getattr(feature, "dtype", type(feature).__name__))
    known = isinstance(feature, library.Image) or dtype in ("binary", "large_binary", "string", "large_string")
    # An image without the library's mark is a plain struct of the same two fields.
    if not known and not (isinstance(feature, Mapping) and {"bytes"} <= set(feature) <= {"bytes", "path"}):
        raise ValueError(
            f"{source.dataset_id}: column {column!r} holds {dtype}, not images; name another with --image-column."
        )
    return table.cast_column(column, library.Image(decode=False))


def _is_list(library: Any, feature: Any) -> bool:
    """Whether a column holds a list per row; the library has several spellings of one."""
    return isinstance(feature, (list, library.List, library.LargeList)) or type(feature).__name__.startswith("Array")


def _multi_hot(library: Any, table: Any, column: str, source: HubSource) -> tuple[npt.NDArray[np.float32], list[str]]:
    feature, values = table.features[column], table.select_columns([column])[:][column]
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    names = list(inner.names) if isinstance(inner, library.ClassLabel) else []
    rows, names = multi_hot_of_lists(values, names, source.num_classes, source.dataset_id)
    if DIFFICULT_COLUMN in table.features and column != DIFFICULT_COLUMN:
        rows = without_difficult(rows, table.select_columns([DIFFICULT_COLUMN])[:][DIFFICULT_COLUMN])
    return rows, names


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
    path = _cell_path(cell)
    return f"{path} (row {index})" if path else f"row {index}"


def _cell_path(cell: Any) -> str | None:
    return cell.get("path") if isinstance(cell, Mapping) else None


def _cell_bytes(cell: Any, index: int) -> bytes:
    name = _cell_name(cell, index)
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, Mapping):
        raise UnreadableImageError(name, f"the cell holds {type(cell).__name__}, not an encoded image")
    if cell.get("bytes"):
        return bytes(cell["bytes"])
    if not cell.get("path"):
        raise UnreadableImageError(name, "the cell is empty")
    try:
        return Path(cell["path"]).read_bytes()
    except OSError as error:
        raise UnreadableImageError(name, error.strerror or str(error)) from error


def _paths_of(chunk: Any) -> list[str | None]:
    """File names of a chunk of cells; the struct's other field, the bytes, is not touched."""
    struct = getattr(chunk, "storage", chunk)
    try:
        paths: list[str | None] = struct.field("path").to_pylist()
    except (AttributeError, KeyError):
        return []
    return paths
