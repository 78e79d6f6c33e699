"""Images in tables: a data set of the Hugging Face Hub, or a local folder of parquet, arrow or webdataset files.

The `datasets` library reads the tables. The images are decoded here, so that a damaged one is the same error as
everywhere else in the package.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.data.decoding import decode_pixels, decode_rgb
from synco_hub.data.hub_source import HubSource, opened_split, split_names
from synco_hub.data.image_dataset import DatasetDescription, ImageDataset, fingerprint
from synco_hub.data.table_cells import cell_bytes, cell_name, cell_path, paths_of
from synco_hub.data.table_columns import image_column_of, label_column_of, with_encoded_images
from synco_hub.data.table_labels import classes_of_rows
from synco_hub.data.table_sample import sampled_rows

TEST_SPLITS = ("test", "validation", "val")


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
        names_from_rows: The table does not name its classes, so they are those of the rows that were read.
    """

    stored_class_names: list[str] | None = None
    names_from_rows = False

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
        return decode_rgb(cell_bytes(cell, index), cell_name(cell, index))

    def load_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Decodes one row to an array."""
        cell = self._cell(index)
        return decode_pixels(cell_bytes(cell, index), cell_name(cell, index))

    def encoded(self, index: int) -> bytes:
        """The stored bytes."""
        return cell_bytes(self._cell(index), index)

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
            paths = [path for chunk in column.chunks for path in paths_of(chunk)]
            if len(paths) == len(self):
                return [path or f"row {index}" for index, path in enumerate(paths)]
        return [cell_path(self._cell(index)) or f"row {index}" for index in range(len(self))]

    def name(self, index: int) -> str:
        """The stored file name with its row, or the row alone."""
        return cell_name(self._cell(index), index)

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
        dataset = _loaded(source, split, stored_split)
        if dataset.is_labeled or dataset.multi_hot is not None:
            return dataset
    return dataset


def _loaded(source: HubSource, split: str, stored_split: str) -> HubImageDataset:
    if source.max_images is None:
        table, rows = opened_split(source, stored_split), ""
    else:
        table = sampled_rows(source, stored_split, source.max_images)
        rows = f"; {len(table)} rows spread over it"
    image_column, label_column = image_column_of(table, source), label_column_of(table, source)
    classes = classes_of_rows(table, label_column, source)
    table = with_encoded_images(table, image_column, source)
    identity = (source.dataset_id.rstrip("/").rsplit("/", 1)[-1], stored_split, image_column, label_column or "")
    labelled = classes.labels if classes.multi_hot is None else classes.multi_hot.astype(np.int64)
    description = DatasetDescription(
        name=source.dataset_id,
        source=source.dataset_id + (f" at revision {source.revision}" if source.revision else ""),
        split=split,
        num_images=len(table),
        num_classes=len(classes.class_names),
        split_rule=f"split {stored_split} as published{rows}",
        fingerprint=fingerprint(identity, classes.class_names, labelled),
    )
    images = HubImageDataset(table, image_column, classes.labels, classes.class_names, description, classes.multi_hot)
    images.names_from_rows = not classes.named_by_table
    return images
