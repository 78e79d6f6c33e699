"""Opens a table as a stream of raw rows: parquet, arrow or webdataset files, or a data set of the Hugging Face Hub.

The `datasets` library resolves the files and reads them, one iterable per shard. Images stay encoded.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from synco_hub.data.catalog.loading import choose_row_table, find_stored_splits
from synco_hub.data.catalog.sets import find_row_meant
from synco_hub.data.decoding import UnreadableImageError, measure_extent
from synco_hub.data.folder_files import explain_file, has_images
from synco_hub.data.image_dataset import DatasetDescription, fingerprint, note_value_range
from synco_hub.data.image_folder import PRETRAINING
from synco_hub.data.preparation import require_complete
from synco_hub.data.streams.images import StreamedImages
from synco_hub.data.table_cells import (
    place_cell,
    read_cell_bytes,
)
from synco_hub.data.table_files import count_samples, read_parquet_from
from synco_hub.data.table_source import (
    TableSource,
    find_image_column,
    has_tables,
    is_hub_id,
    keep_images_encoded,
    open_builder,
    open_streams,
)
from synco_hub.data.tables import list_pretraining_splits
from synco_hub.data.value_range import Extent, ValueRange, join_extents, spread
from synco_hub.settings import DatasetChoice

# To know the values that images of more than 8 bits have.
_MEASURED_SHARDS, _MEASURED_ROWS = 8, 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamSource:
    """A table that can be read shard by shard.

    Attributes:
        tables: `datasets.IterableDataset`s with the image column alone, not decoded; read one after another.
        image_column: Column of the encoded images.
        shard_names: Names of all shards. Shape: (num_shards,).
        counts: Rows of each shard, None where only reading would tell. Shape: (num_shards,).
        name: What the user asked for.
        num_rows: Rows in all, None where unknown.
        split_rule: Which stored splits the rows come from.
        root: The folder of a local table, where names of shards begin.
        value_range: Values of black and white that the user gave; None measures them.
    """

    tables: tuple[Any, ...]
    image_column: str
    shard_names: tuple[str, ...]
    counts: tuple[int | None, ...]
    name: str
    num_rows: int | None
    split_rule: str
    root: str | None = None
    value_range: ValueRange | None = None

    def cells(self, shard: int, start: int = 0) -> Iterator[Any]:
        """The image cells of a shard in stored order, from a row on."""
        file = None if self.root is None else os.path.join(self.root, self.shard_names[shard])
        if start and file is not None and file.endswith(".parquet") and os.path.isfile(file):
            cells = read_parquet_from(file, self.image_column, start)
        else:
            cells = islice(self._stored_cells(shard), start, None)
        return self._placed(shard, cells)

    def _placed(self, shard: int, cells: Iterator[Any]) -> Iterator[Any]:
        """Cells whose paths begin at the shard's file or at the table, where they do."""
        if self.root is None:
            return cells
        folders = [os.path.dirname(os.path.join(self.root, self.shard_names[shard])), self.root]
        return (place_cell(cell, folders) for cell in cells)

    def _stored_cells(self, shard: int) -> Iterator[Any]:
        for table in self.tables:
            if shard < table.num_shards:
                part = table.shard(num_shards=table.num_shards, index=shard)
                return (row[self.image_column] for row in part)
            shard -= table.num_shards
        raise IndexError(shard)

    def images(self, images_per_epoch: int | None = None) -> StreamedImages:
        """The images of the stream, for the data set that makes views of them.

        Args:
            images_per_epoch: Length of an epoch; None takes the number of rows.

        Raises:
            ValueError: If the length is unknown, or there is nothing to read.
        """
        number = images_per_epoch or self.num_rows
        if self.num_rows == 0:
            raise ValueError(f"{self.name}: its {len(self.counts)} files hold no rows; give a data set with images.")
        if number is None:
            raise ValueError(
                f"{self.name} does not say how many rows it has, and an epoch of a stream needs a length: give it "
                "with --images-per-epoch."
            )
        if number < 1:
            raise ValueError(f"--images-per-epoch {number}: an epoch has at least one image.")
        description = DatasetDescription(
            name=self.name,
            source=f"{self.name}, streamed",
            split="train",
            num_images=number,
            num_classes=0,
            split_rule=f"{self.split_rule}, {len(self.counts)} shards streamed",
            fingerprint=fingerprint(self.image_column, self.shard_names, [str(count) for count in self.counts]),
        )
        images = StreamedImages(self.shard_names, description)
        note_value_range(images, images, self.value_range or self._measure_range())
        return images

    def _measure_range(self) -> ValueRange | None:
        """Of the first images of some shards; of one alone where those are of 8 bits."""
        extents: list[Extent | None] = []
        for shard in spread(len(self.counts), _MEASURED_SHARDS):
            with contextlib.suppress(Exception):  # what is wrong with a shard is said when it is trained on
                for cell in self._placed(shard, islice(self._stored_cells(shard), _MEASURED_ROWS)):
                    with contextlib.suppress(UnreadableImageError):
                        extents.append(measure_extent(read_cell_bytes(cell, "")))
            if not any(extents):
                break
        return join_extents(extents)


def open_stream(
    choice: DatasetChoice | str | os.PathLike[str],
    split: str = "train",
    *,
    cache_dir: str | os.PathLike[str] | None = None,
) -> StreamSource:
    """Finds the files of a table by name or path; its labels are not read.

    Args:
        choice: Which table, as for `load_dataset`: a folder of parquet, arrow or webdataset files, a name of the
            catalog, or `namespace/name` on the Hub.
        split: Stored split; for a name of the catalog one of its own; `pretraining` is `train` with the splits that
            are there for learning without labels.
        cache_dir: Where the `datasets` library keeps what it looks up; None for its own folder.

    Raises:
        ImportError: If the `datasets` library is not installed.
        ValueError: If there is no such data set, no such split, no column of images, or nothing that can be streamed.
    """
    choice = choice if isinstance(choice, DatasetChoice) else DatasetChoice(os.fspath(choice))
    source = TableSource.of(choice, cache_dir=None if cache_dir is None else os.fspath(cache_dir))
    row = find_row_meant(choice.dataset, choice.data_dir, choice.dataset_id)
    if row is None and choice.dataset_id is not None:
        raise ValueError(
            f"--dataset-id {choice.dataset_id} replaces the copy of a name of the catalog; give it as --dataset."
        )
    if row is not None:
        split = "train" if split == PRETRAINING else split
        if split not in row.splits:
            raise ValueError(f"{row.name} has no split {split!r} of its own; pretrain on another data set.")
        if source.data_dir is None and source.dataset_id is None and not row.has_table:
            raise ValueError(
                f"{row.name} has no table on the Hub that could be streamed; give the folder of its parquet files "
                "with --data-dir (`synco-hub data prepare` writes them)."
            )
        source = choose_row_table(row, source)
    folder = Path(source.dataset).expanduser()
    if folder.is_dir():
        _require_tables(folder)
        source = replace(source, dataset=str(folder))
    elif folder.is_file():
        raise ValueError(f"data set {source.dataset!r}: {explain_file(folder)}")
    elif not is_hub_id(source.dataset):
        raise ValueError(
            f"data set {source.dataset!r}: neither a folder, nor a name of `synco-hub data list`, nor a Hub id "
            "namespace/name; --streaming reads parquet, arrow and webdataset files."
        )
    if row is None:
        return _opened(source, choice.dataset, (split,), None)
    return _opened(source, row.name, find_stored_splits(row, source, split), row.counts.get(split))


def _require_tables(folder: Path) -> None:
    require_complete(folder)
    if has_tables(folder):
        return
    if has_images(folder):
        raise ValueError(
            f"{folder} holds image files, which need no streaming: leave out --streaming, or write them as parquet "
            "shards with `synco-hub data prepare`."
        )
    raise ValueError(f"{folder}: no parquet, arrow or webdataset (.tar) files to stream; check the path.")


def _opened(source: TableSource, name: str, stored: Sequence[str], expected: int | None) -> StreamSource:
    builder = open_builder(source)
    present = list(map(str, builder.info.splits or builder.config.data_files or stored))
    if tuple(stored) == (PRETRAINING,) and PRETRAINING not in present:
        known = present if builder.info.splits or builder.config.data_files else []
        stored = list_pretraining_splits(known) if known else ("train",)
    missing = [split for split in stored if split not in present]
    if missing:
        raise ValueError(f"{name}: no split {missing[0]!r} among {', '.join(present)}.")
    tables = open_streams(source, builder, stored)
    column = find_image_column(tables[0], source)
    files = [_files(builder, split, table.num_shards) for split, table in zip(stored, tables, strict=True)]
    root = source.dataset if os.path.isdir(source.dataset) else None
    names = [os.path.relpath(file, root) if root and os.path.isabs(file) else file for part in files for file in part]
    counts = [count_samples(file) for part in files for file in part]
    return StreamSource(
        tables=tuple(keep_images_encoded(table.select_columns([column]), column, source) for table in tables),
        image_column=column,
        shard_names=tuple(names),
        counts=tuple(counts),
        name=name,
        num_rows=_num_rows(builder, stored, counts, expected if root is None else None),
        split_rule=f"split {' + '.join(stored)} as published",
        root=root,
        value_range=None if source.value_range is None else ValueRange.parse(source.value_range),
    )


def _num_rows(builder: Any, stored: Sequence[str], counts: Sequence[int | None], expected: int | None) -> int | None:
    """Rows in all: counted, as the data set's own card says, or as the catalog says."""
    known = [count for count in counts if count is not None]
    if len(known) == len(counts):
        return sum(known)
    said = [getattr((builder.info.splits or {}).get(split), "num_examples", None) for split in stored]
    numbers = [int(number) for number in said if number]
    return sum(numbers) if len(numbers) == len(stored) else expected


def _files(builder: Any, split: str, num_shards: int) -> list[str]:
    """The file of each shard, or a name for it where shards are no files."""
    files = [str(file) for file in (builder.config.data_files or {}).get(split, ())]
    return files if len(files) == num_shards else [f"shard {split}-{number}" for number in range(num_shards)]
