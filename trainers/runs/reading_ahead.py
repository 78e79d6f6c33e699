"""Batches of images by position: workers share each of them, and read the next epoch before this one ends."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainingArguments
from transformers.trainer_utils import seed_worker

from synco_hub.data import EpochSampler, TwoViewCollator
from synco_hub.data.views.dataset import join_batches
from synco_hub.data.worker_signals import worker_settings

# At most so many for a batch: each costs the main process a millisecond, and each of its tensors a file descriptor.
PIECES = 4
# torch's own, where none is given.
_BATCHES_AHEAD = 2

Batch = list[tuple[int, int]]


class BatchesReadAhead(Dataset[Any]):
    """A data set that is asked for whole batches, and whose workers know which will be asked for.

    The loader around it has no workers of its own: accelerate may share its batches out among processes, and make a
    new one that skips some, while this one reads on. A batch that is not the next of the order, as after a resume, is
    where reading begins anew.

    Args:
        dataset: Asked by (epoch, index).
        collate: Makes a batch of its items; a `TwoViewCollator` also makes pieces of one.
        args: Workers, device, seed.
    """

    def __init__(self, dataset: Any, collate: Callable[..., Any], args: TrainingArguments) -> None:
        self._dataset = dataset
        self._collate = collate
        self._args = args
        self._pieces = min(args.dataloader_num_workers, PIECES) if type(collate) is TwoViewCollator else 1
        self._batches: Any = None
        self._sampler: EpochSampler | None = None
        self._num_epochs = 0
        # Batches that workers were told to read, the next one first.
        self._coming: deque[Batch] = deque()
        self._reading: Iterator[Any] | None = None

    def __len__(self) -> int:
        return len(self._dataset)

    def loader(self, batch_size: int, sampler: Sampler[tuple[int, int]]) -> DataLoader[Any]:
        """What asks for the batches, for accelerate to prepare."""
        return DataLoader(
            self, batch_size, sampler=sampler, drop_last=self._args.dataloader_drop_last, collate_fn=_as_it_is
        )

    def follow(self, batch_sampler: Any, sampler: EpochSampler, num_epochs: int) -> None:
        """Learn the order of the batches.

        Args:
            batch_sampler: Of the prepared loader, so of this process alone.
            sampler: The one it goes back to, which is told the epoch.
            num_epochs: Nothing is read beyond.
        """
        self._batches, self._sampler = copy.deepcopy((batch_sampler, sampler))
        self._num_epochs = num_epochs

    def __getitems__(self, keys: Batch) -> Any:
        """The batch of these keys, on the device."""
        if not self._coming or self._coming[0] != keys:
            self._begin_at(keys)
        self._coming.popleft()
        reading, pinned = cast(Iterator[Any], self._reading), self._args.dataloader_pin_memory
        # Joined on the device: pieces in pinned memory go there without being waited for.
        pieces = [send_to_device(next(reading), self._args.device, non_blocking=pinned) for _ in self._pieces_of(keys)]
        return pieces[0] if len(pieces) == 1 else join_batches(pieces)

    def close(self) -> None:
        """End the workers."""
        self._reading = None
        self._coming.clear()

    def _begin_at(self, keys: Batch) -> None:
        self.close()
        args = self._args
        workers = args.dataloader_num_workers
        init = partial(seed_worker, num_workers=workers, rank=args.process_index)
        loader: DataLoader[Any] = DataLoader(
            self._dataset,
            batch_sampler=cast(Any, self._order_from(keys)),
            **worker_settings(workers, init, args.dataloader_multiprocessing_context),
            collate_fn=self._collate,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=(args.dataloader_prefetch_factor or _BATCHES_AHEAD) * self._pieces,
            # Of its own: the training's generators draw what they draw without workers.
            generator=torch.Generator().manual_seed(args.seed),
        )
        self._reading = iter(loader)

    def _order_from(self, first: Batch) -> Iterator[Batch]:
        """Pieces of batches, to the end of the epoch, or of the run if workers live as long."""
        assert self._sampler is not None
        begun, epoch = False, first[0][0]
        last = max(epoch, self._num_epochs - 1) if self._args.dataloader_persistent_workers else epoch
        for number in range(epoch, last + 1):
            self._sampler.set_epoch(number)
            for batch in self._batches:
                begun = begun or batch == first
                if begun:
                    self._coming.append(batch)
                    yield from self._pieces_of(batch)
            assert begun, f"a batch that is none of epoch {epoch}"

    def _pieces_of(self, batch: Batch) -> list[Batch]:
        size = math.ceil(len(batch) / self._pieces)
        return [batch[begin : begin + size] for begin in range(0, len(batch), size)]


def _as_it_is(batch: Any) -> Any:
    return batch
