"""Images in tables: a data set of the Hugging Face Hub, or a local folder of parquet, arrow or webdataset files."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm.auto import tqdm

from synco_hub.data.decoding import UnreadableImageError, decode_pixels, decode_rgb
from synco_hub.data.folder_layout import warn_once
from synco_hub.data.folder_splits import SplitKind, list_split_folders
from synco_hub.data.image_dataset import DatasetDescription, ImageDataset, fingerprint
from synco_hub.data.image_folder import PRETRAINING
from synco_hub.data.row_classes import read_row_classes
from synco_hub.data.table_cells import (
    find_cell_path,
    find_relative_path,
    list_cell_paths,
    name_cell,
    place_cell,
    read_cell_bytes,
)
from synco_hub.data.table_source import (
    DIFFICULT_COLUMN,
    TableSource,
    call_datasets,
    class_lists_differ,
    find_image_column,
    import_datasets,
    keep_images_encoded,
    label_column_of,
    list_file_classes,
    list_row_folders,
    list_unread_files,
    open_every_split,
    open_split,
    split_names,
)
from synco_hub.data.value_range import spread

logger = logging.getLogger(__name__)

# Rows that tell whether a column holds images or the paths of images.
_LOOKED_AT = 16
# Images whose bytes tell a local table from another one with the same labels.
_COMPARED = 64
TEST_SPLITS = ("test", "validation", "val")


class TableDataset(ImageDataset):
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
        row_folders: See `list_row_folders`; empty where no image is named by its path.
        table_root: The folder of the table, then.
    """

    stored_class_names: list[str] | None = None
    names_from_rows = False
    row_folders: Sequence[tuple[int, str]] = ()
    table_root: Sequence[str] = ()

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
        return decode_rgb(*self._encoded(index), self.value_range)

    def load_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Decodes one row to an array."""
        return decode_pixels(*self._encoded(index), self.value_range)

    def encoded(self, index: int) -> bytes:
        """The stored bytes."""
        return self._encoded(index)[0]

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
            paths = [path for chunk in column.chunks for path in list_cell_paths(chunk)]
            if len(paths) == len(self):
                return [path or f"row {index}" for index, path in enumerate(paths)]
        return [find_cell_path(self._cell(index)) or f"row {index}" for index in range(len(self))]

    def name(self, index: int) -> str:
        """The stored file name with its row, or the row alone."""
        return name_cell(self._cell(index), index)

    def _encoded(self, index: int) -> tuple[bytes, str]:
        """Bytes and name of one row, which is read once."""
        cell = self._cell(index)
        name = name_cell(cell, index)
        return read_cell_bytes(place_cell(cell, self._folders_of(index)), name), name

    def _folders_of(self, index: int) -> list[str]:
        """Where a relative path of a row may begin: at its file, then at the data set."""
        row = range(len(self))[index]
        here = next((folder for end, folder in self.row_folders if row < end), None)
        return [] if here is None else [here, *self.table_root]

    def _cell(self, index: int) -> Any:
        return self._table[range(len(self))[index]][self._image_column]


def load_table(source: TableSource, split: str = "train") -> TableDataset:
    """Loads one split of a table, map-style, in stored order.

    The split is `train`; `test`, which takes the first of the splits test, validation, val (or spelled otherwise) that
    has labels; `pretraining`, which is `train` with the splits that are there for learning without labels; or any
    split expression of the `datasets` library, such as `train+validation`.
    """
    unread = list_unread_files(source)
    if unread:
        some = f"{', '.join(unread[:3])}{' …' if len(unread) > 3 else ''}"
        warn_once(
            f"{source.dataset}: {len(unread)} files are of no split and are not read ({some}); begin their names with "
            "train, test or unlabeled."
        )
    tried = [split]
    if split == PRETRAINING:
        with contextlib.suppress(ValueError):  # the Hub may not answer, and what is in the cache be enough
            tried = ["+".join(list_pretraining_splits(split_names(source)))]
        if split in tried or tried == ["train"]:
            split, tried = "train", ["train"]
    if split == "train" and os.path.isdir(os.path.expanduser(source.dataset)):
        present = split_names(source)
        if "train" not in present:
            tried = [*list_split_folders(present, SplitKind.train), "train"][:1]
    if split == "test":
        present = split_names(source)
        spelled = [name for name in list_split_folders(present, SplitKind.test) if name not in TEST_SPLITS]
        tried = [*(name for name in TEST_SPLITS if name in present), *spelled]
        if not tried:
            raise ValueError(
                f"{source.dataset}: no test split among {', '.join(present)}; name one with its own name, or use "
                "the data set for pretraining only."
            )
    for stored_split in tried:
        dataset = _loaded(source, split, stored_split)
        if dataset.is_labeled or dataset.multi_hot is not None:
            return dataset
    return dataset


def list_pretraining_splits(present: Sequence[str]) -> tuple[str, ...]:
    """The splits of a table that are learned from without labels, as the folders of a folder of images."""
    unlabeled = list_split_folders(present, SplitKind.unlabeled)
    train = ("train",) if "train" in present else list_split_folders(present, SplitKind.train)[:1]
    return (*(train or (() if unlabeled else ("train",))), *unlabeled)


def _loaded(source: TableSource, split: str, stored_split: str) -> TableDataset:
    # A sample does not know of its rows which file they are of, and `load_dataset` takes its own of the whole.
    if source.max_images is None or class_lists_differ(source):
        table, rows = open_split(source, stored_split), ""
    else:
        table = sample_rows(source, stored_split, source.max_images)
        rows = f"; {len(table)} rows spread over it"
    image_column, label_column = find_image_column(table, source), label_column_of(table, source)
    is_named = label_column is None or isinstance(
        table.features[label_column], import_datasets(source.dataset).ClassLabel
    )
    every_split = [] if is_named or source.max_images is not None else open_every_split(source)
    files = [] if label_column is None else list_file_classes(source, stored_split, label_column)
    classes = read_row_classes(table, label_column, source, every_split, files)
    table = keep_images_encoded(table, image_column, source)
    columns = (stored_split, image_column, label_column or "")
    class_identity = (tuple(classes.identity[0]), classes.identity[1])
    name = source.dataset.rstrip("/").rsplit("/", 1)[-1]
    description = DatasetDescription(
        name=source.dataset,
        source=source.dataset + (f" at revision {source.revision}" if source.revision else ""),
        split=split,
        num_images=len(table),
        num_classes=len(classes.class_names),
        split_rule=f"split {stored_split.replace('+', ' + ')} as published{rows}"
        if split == PRETRAINING
        else f"split {stored_split} as published{rows}",
        fingerprint=fingerprint((name, *columns), *class_identity),
    )
    images = TableDataset(table, image_column, classes.labels, classes.class_names, description, classes.multi_hot)
    images.names_from_rows = not classes.named_by_table
    if any(map(find_relative_path, table[:_LOOKED_AT][image_column])):
        images.row_folders = list_row_folders(source, stored_split, len(table))
        images.table_root = (os.path.expanduser(source.dataset),)
    if os.path.isdir(os.path.expanduser(source.dataset)):
        # A folder's name is chance, and is in the fingerprint of version 0.1.
        images.description = replace(
            description,
            fingerprint=fingerprint(columns, *class_identity, *_identify_contents(images)),
            earlier_fingerprint=description.fingerprint,
        )
    return images


def _identify_contents(images: TableDataset) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Bytes of every image, where that is known without reading them, and hashes of some images."""
    sizes = images.encoded_sizes()
    digests = []
    for index in spread(len(images), _COMPARED):
        try:
            digests.append(hashlib.blake2b(images.encoded(index), digest_size=16).hexdigest())
        except UnreadableImageError:
            digests.append("unreadable")
    return np.array([len(images)]) if sizes is None else sizes, digests


# Each costs a request of its own on the Hub.
PARTS_AT_MOST = 256
# Tables are often sorted by class: of neighbouring rows only some are kept.
READ_PER_KEPT = 5
_ROWS_A_BLOCK = 1000


def sample_rows(source: TableSource, stored_split: str, max_rows: int) -> Any:
    """Rows from evenly spaced parts of a split (row groups of parquet files, else files), in stored order.

    As many of each part, drawn at random from its beginning; the same ones at every call. At most five times as many
    rows are read as kept. Where parts are of very different length, they are fewer than asked for. The result is a
    `datasets.Dataset` in memory with the columns of images and classes, the images not decoded.
    """
    if max_rows < 1:
        raise ValueError(f"max_images={max_rows} of {source.dataset}: give at least 1, or leave it out for all.")
    library = import_datasets(source.dataset)
    tables = [_columns(source, name) for name in stored_split.split("+")]
    parts = [part for table in tables for part in _parts(table)]
    parts = [parts[position] for position in _spread_evenly(len(parts), min(PARTS_AT_MOST, max_rows))]
    if not parts:
        raise ValueError(f"{source.dataset} (split {stored_split}): it has no rows; give another data set.")
    count, kept, blocks = 0, [], []
    with tqdm(total=max_rows, desc=f"sample of {source.dataset}", unit=" images", disable=None) as bar:
        for number, part in enumerate(parts):
            quota = -(-(max_rows - count) // (len(parts) - number))
            rows = call_datasets(source, _drawn, part, quota, number)
            bar.update(len(rows))
            count += len(rows)
            kept += rows
            if len(kept) >= _ROWS_A_BLOCK or number == len(parts) - 1:
                # In blocks, since one column of bytes cannot hold more than 2 GB.
                blocks.append(library.Dataset.from_list(kept, features=tables[0].features))
                kept = []
    table = library.concatenate_datasets([block for block in blocks if len(block)] or blocks[:1])
    logger.info("%s: %d rows of %d parts", source.dataset, len(table), len(parts))
    return table


def _columns(source: TableSource, stored_split: str) -> Any:
    """A split as a stream of what is needed of each row."""
    table = open_split(source, stored_split, streaming=True)
    if table.features is None:
        raise ValueError(
            f"{source.dataset} does not say which columns it has, so that images with classes cannot be picked out "
            "of it; name another data set for them."
        )
    image, label = find_image_column(table, source), label_column_of(table, source)
    wanted = [name for name in (image, label, DIFFICULT_COLUMN) if name in table.features]
    return keep_images_encoded(table.select_columns(wanted), image, source)


def _parts(table: Any) -> Iterator[Any]:
    """The smallest parts of a stream that can be read alone."""
    if table.num_shards <= PARTS_AT_MOST and hasattr(table, "reshard"):  # datasets 4.0 has none
        table = table.reshard()
    return (table.shard(num_shards=table.num_shards, index=index) for index in range(table.num_shards))


def _spread_evenly(length: int, count: int) -> list[int]:
    """`count` evenly spaced positions, or all."""
    return list(range(length)) if length <= count else [position * length // count for position in range(count)]


def _drawn(part: Any, quota: int, seed: int) -> list[Any]:
    """A uniform sample of the first rows of a part, in stored order."""
    generator = random.Random(seed)
    drawn: list[tuple[int, Any]] = []
    for position, row in enumerate(islice(part, quota * READ_PER_KEPT)):
        if len(drawn) < quota:
            drawn.append((position, row))
        elif (place := generator.randrange(position + 1)) < quota:
            drawn[place] = (position, row)
    return [row for _, row in sorted(drawn, key=lambda pair: pair[0])]
