"""Images that come as a stream: rows with their bytes go to the worker processes, which decode them.

The main process reads raw rows in their random order (about 0.1 ms an image) and hands them to the workers of a
`DataLoader` in place of positions. So batches are those of one list of rows, whatever the number of workers; an epoch
ends with the last whole batch; and a run that is resumed finds its place by reading rows that nobody decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from synco_hub.data.decoding import decode_pixels, decode_rgb
from synco_hub.data.image_dataset import UNLABELED, DatasetDescription, ImageDataset
from synco_hub.data.table_cells import read_cell_bytes

_SHARD_BITS = 32
# In place of the epoch: the row is no sample of this batch, but may stand in for an unreadable one.
SPARE = -1


class StreamRow(int):
    """The number of a row in its stream, with the row's image cell along: a position that needs no table.

    The number is shard · 2³² + row of the shard: the same in every epoch and for every number of processes.
    """

    cell: Any

    def __new__(cls, shard: int, row: int, cell: Any) -> StreamRow:
        """Packs shard and row into one number."""
        self = super().__new__(cls, (shard << _SHARD_BITS) + row)
        self.cell = cell
        return self

    def __reduce__(self) -> tuple[type[StreamRow], tuple[int, int, Any]]:
        """How a row travels to a worker."""
        return type(self), (self >> _SHARD_BITS, self & ((1 << _SHARD_BITS) - 1), self.cell)


class StreamedImages(ImageDataset):
    """The images of a stream's rows, as a data set whose positions are `StreamRow`s.

    In place of an unreadable row another one of the same batch, or of its spare rows, is taken: a plain number asks
    for that.

    Args:
        shard_names: How reports name the shards.
        description: What to say about the data; its `num_images` is the length of an epoch.
    """

    def __init__(self, shard_names: Sequence[str], description: DatasetDescription) -> None:
        super().__init__(np.full(description.num_images, UNLABELED, dtype=np.int64), (), description)
        self.shard_names = tuple(shard_names)
        self.batch: Sequence[StreamRow] = ()

    def load_image(self, index: int) -> Image.Image:
        """Decodes the cell that came with a row."""
        row = self._row(index)
        name = self.name(row)
        return decode_rgb(read_cell_bytes(row.cell, name), name, self.value_range)

    def load_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Decodes the cell that came with a row to an array."""
        row = self._row(index)
        name = self.name(row)
        return decode_pixels(read_cell_bytes(row.cell, name), name, self.value_range)

    def find_damage(self, index: int) -> str | None:
        """Not told: a row that has passed is not read again."""

    def name(self, index: int) -> str:
        """Shard and row: `train-00003.parquet, row 17`."""
        return f"{self.shard_names[index >> _SHARD_BITS]}, row {index & ((1 << _SHARD_BITS) - 1)}"

    def _row(self, number: int) -> StreamRow:
        if isinstance(number, StreamRow):
            return number
        if not self.batch:
            raise ValueError(f"row {number} of a stream cannot be asked for by number: rows come in their own order.")
        return self.batch[number % len(self.batch)]


class _Views(Protocol):
    images: StreamedImages

    def __getitem__(self, key: tuple[int, int]) -> Any: ...


class StreamedBatches(torch.utils.data.Dataset[Any]):
    """What a `DataLoader` reads whose sampler yields (epoch, StreamRow): the samples of a whole batch at once.

    Args:
        views: Makes one sample of (epoch, row), from `views.images`.
    """

    def __init__(self, views: _Views) -> None:
        self.views = views

    def __getitem__(self, key: tuple[int, StreamRow]) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[tuple[int, StreamRow | None]]) -> list[Any]:
        """Samples of a batch; none where the stream broke off within it. Spare rows are no samples."""
        if any(row is None for epoch, row in keys if epoch != SPARE):
            return []
        rows = [(epoch, row) for epoch, row in keys if row is not None]
        self.views.images.batch = [row for _, row in rows]
        return [self.views[epoch, row] for epoch, row in rows if epoch != SPARE]


class StreamCollator:
    """Collates as another collator does; the batch in which a stream broke off becomes an empty dict.

    Args:
        collate: For whole batches.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        """Collates, or says by an empty dict that there is nothing to collate."""
        return self.collate(samples) if samples else {}
