"""From a stream to batches on every process: the loader, the place to continue at, and stopping together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import TrainingArguments

from synco_hub.data import BY_ROWS, StreamCollator, StreamedBatches, StreamSampler, StreamSettings, StreamSource
from synco_hub.data.streams.sampler import StreamBatchSampler
from synco_hub.data.worker_signals import worker_settings

logger = logging.getLogger(__name__)

ENDLESS = "endless"
# What decides which row comes when; with another value a place in the stream would be another one.
ORDER_DEPENDS_ON = ("num_shards", "shuffle_buffer", "seed", "rule", "processes", "rows_per_epoch")


class StreamBrokeOffError(OSError):
    """A stream cannot be read on; the run has stopped at a step whose state is saved."""


@dataclass(frozen=True)
class StreamedData:
    """A stream and how to read it.

    Attributes:
        source: The table.
        settings: Seed, buffer, retries.
    """

    source: StreamSource
    settings: StreamSettings


class StreamLoading:
    """What a trainer needs of a stream.

    Attributes:
        sampler: The rows of this process.
    """

    def __init__(self, data: StreamedData, num_images: int, args: TrainingArguments) -> None:
        self._args = args
        self._group: Any = None
        self.micro_batches = num_images // (args.per_device_train_batch_size * args.world_size)
        rows = self.micro_batches * args.per_device_train_batch_size
        # Epochs of the whole data have an order each; shorter and longer ones go on where the one before ended.
        counts = [count for count in data.source.counts if count is not None]
        endless = num_images != (sum(counts) if len(counts) == len(data.source.counts) else data.source.num_rows)
        self.sampler = StreamSampler(data.source, data.settings, rows, args.process_index, args.world_size, endless)
        self._places: list[list[Any] | None] = []
        if args.process_index == 0:
            self._warn_of_few_shards(len(data.source.counts))

    def _warn_of_few_shards(self, num_shards: int) -> None:
        processes = self._args.world_size
        if processes > 1 and self.sampler.part.rule == BY_ROWS:
            logger.warning(
                "%d shards cannot be shared evenly by %d processes: each process reads all of them and keeps every "
                "%d. row, which costs %d times the reading. `synco-hub data prepare --shard-size` writes more; "
                "take a multiple of %d.",
                *(num_shards, processes, processes, processes, processes),
            )

    def loader(self, views: Any, collate: Callable[..., Any]) -> DataLoader[Any]:
        """Batches of this process alone: it must not be prepared by accelerate, which would share it out again."""
        workers = self._args.dataloader_num_workers
        return DataLoader(
            StreamedBatches(views),
            batch_sampler=StreamBatchSampler(self.sampler, self._args.per_device_train_batch_size),
            **worker_settings(workers, context=self._args.dataloader_multiprocessing_context),
            collate_fn=StreamCollator(collate),
            pin_memory=self._args.dataloader_pin_memory,
            prefetch_factor=self._args.dataloader_prefetch_factor if workers else None,
            # Of its own: otherwise each new epoch draws from the generator that drop path and synthesis draw from.
            generator=torch.Generator().manual_seed(self._args.seed),
        )

    def position(self, steps_in_epoch: int) -> dict[str, Any]:
        """Where the stream stands and what its order depends on; JSON values."""
        settings, part = self.sampler.settings, self.sampler.part
        return {
            **{name: value for name, value in asdict(settings).items() if name != "retries"},
            "num_shards": len(part.offsets),
            "rule": part.rule,
            "processes": part.num_processes,
            "rows_per_epoch": self.sampler.rows_per_epoch,
            "steps_in_epoch": steps_in_epoch,
            "rows_read": self._rows_of(steps_in_epoch),
            **({"order": ENDLESS, "places": self._places} if self.sampler.endless else {}),
            "datasets": metadata.version("datasets"),
        }

    def note_places(self, epoch: int) -> None:
        """Keep where each process begins an epoch, if that does not follow from its number; called on all of them."""
        place = self.sampler.place_of_epoch(epoch)
        self._places = [place]
        if self._args.world_size > 1 and self.sampler.endless and None in self.sampler.source.counts:
            self._places = [None] * self._args.world_size
            dist.all_gather_object(self._places, place, group=self._cpu_group())

    def go_on_from(self, saved: Mapping[str, Any] | None, epoch: int) -> None:
        """Take up the order of a checkpoint, and the places that it says an epoch begins at."""
        if saved is None or not self.sampler.endless:
            return
        if saved.get("order") != ENDLESS:
            self.sampler.endless = False
            if self._args.process_index == 0:
                logger.warning(
                    "the run was begun by a version whose epochs of %d images all began with the first rows of each "
                    "shard, and goes on so; a new run reads every image in turn.",
                    self.sampler.rows_per_epoch * self._args.world_size,
                )
            return
        places = saved.get("places", [])
        if len(places) == self._args.world_size and places[self._args.process_index] is not None:
            self.sampler.begin_epoch_at(epoch, places[self._args.process_index])

    def show_skipping(self, steps_in_epoch: int) -> None:
        """Show a bar while the first rows of the next epoch are read to find the place; nobody decodes them."""
        rows = self._rows_of(steps_in_epoch)
        if not rows or self._args.process_index != 0:
            return
        bar = tqdm(total=rows, desc="to the place in the stream", unit=" images", disable=self._args.disable_tqdm)

        def advance(number: int) -> None:
            bar.update()
            if number >= rows:
                bar.close()
                self.sampler.on_row = None

        self.sampler.on_row = advance

    def _rows_of(self, steps_in_epoch: int) -> int:
        micro_batches = min(steps_in_epoch * self._args.gradient_accumulation_steps, self.micro_batches)
        return micro_batches * self._args.per_device_train_batch_size

    def broke_off(self, batches: list[dict[str, Any]]) -> bool:
        """Whether the stream of any process broke off within the batches of this step; the same answer on all."""
        broken = not all(batches)
        if self._args.world_size == 1:
            return broken
        number = torch.tensor(int(broken))
        dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self._cpu_group())
        return bool(number)

    def _cpu_group(self) -> Any:
        """On the CPU: asking the device would make every step wait for it."""
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        return self._group

    def on_device(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The batches where the model is; from pinned memory no step waits for the copy."""
        device, pinned = self._args.device, self._args.dataloader_pin_memory
        return [{name: value.to(device, non_blocking=pinned) for name, value in batch.items()} for batch in batches]

    def reason(self) -> str:
        """Why the stream broke off, as far as this process knows."""
        return "the stream of another process broke off" if self.sampler.failure is None else str(self.sampler.failure)


def check_stream_position(checkpoint: object, saved: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
    """Refuse to continue within an epoch of a stream whose rows would come in another order."""
    if (saved is None) != (now is None):
        was, be = ("by position", "as a stream") if saved is None else ("as a stream", "by position")
        raise ValueError(f"{checkpoint}: its images were read {was}, not {be}; continue with the same --streaming.")
    if saved is None or now is None:
        return
    if saved.get("datasets") != now.get("datasets"):
        # Order does not depend on it, unless its readers should ever yield a file's rows in another order.
        logger.warning("continuing a stream with datasets %s → %s", saved.get("datasets"), now.get("datasets"))
    different = [name for name in ORDER_DEPENDS_ON if saved.get(name) != now.get(name)]
    if not different:
        return
    text = "; ".join(f"{name.replace('_', ' ')} was {saved.get(name)} and is {now.get(name)}" for name in different)
    if saved.get("steps_in_epoch") == 0:
        logger.warning("continuing at the start of an epoch with another order of the stream: %s", text)
        return
    raise ValueError(
        f"{checkpoint} lies within an epoch of a stream, and its place there is counted in another order of the rows: "
        f"{text}. Continue with the values it was made with; at the start of an epoch they may change."
    )
