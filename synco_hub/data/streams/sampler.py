"""The rows of one process in each epoch of a stream, exactly as many as there are on every other process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from queue import Empty, Full, Queue
from typing import Any, Generic, Protocol, TypeVar, cast

from torch.utils.data import BatchSampler, Sampler

from synco_hub.data.streams.images import SPARE, StreamRow
from synco_hub.data.streams.order import (
    EndlessWalk,
    StreamPart,
    interleave,
    shard_order,
    shuffle_rows,
    stream_part,
)
from synco_hub.data.streams.retries import DEFAULT_RETRIES, StreamReadError, read_rows_with_retries

DEFAULT_SHUFFLE_BUFFER = 4096
# Rows that come along with a batch in case none of its own can be read.
SPARE_ROWS = 4
# Rows that a thread has read before they are asked for.
ROWS_AHEAD = 64
_LOOK_UP_SECONDS = 0.1

Key = tuple[int, StreamRow | None]
Row = TypeVar("Row")
OpenRows = Callable[[Callable[[float], object]], Iterator[Row]]


class _Source(Protocol):
    @property
    def shard_names(self) -> Sequence[str]: ...

    @property
    def counts(self) -> Sequence[int | None]: ...

    def cells(self, shard: int, start: int = 0) -> Iterator[Any]: ...


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is read.

    Attributes:
        seed: Another seed gives other orders.
        shuffle_buffer: Encoded images that wait in memory, out of which the next is drawn; up to 1 reads in order.
        retries: Attempts after a network error.

    Raises:
        ValueError: If a number is negative.
    """

    seed: int = 0
    shuffle_buffer: int = DEFAULT_SHUFFLE_BUFFER
    retries: int = DEFAULT_RETRIES

    def __post_init__(self) -> None:
        """Refuses what nothing can be read with."""
        if self.shuffle_buffer < 0:
            raise ValueError(f"--shuffle-buffer {self.shuffle_buffer}: give 0 to read in order, or more.")
        if self.retries < 0:
            raise ValueError(f"--stream-retries {self.retries}: give 0 to stop at the first error, or more.")


class StreamSampler(Sampler[Any]):
    """Yields (epoch, StreamRow): the rows of one process in an order that depends on (seed, epoch) alone.

    Every process gets `rows_per_epoch` rows. With known shards that are the rows of the stream once each, less the
    last incomplete global batch. Where the counts are unknown, a process whose shards are short begins them again.

    Epochs of another length than the data are stretches of one endless order, in which every row comes once before
    any comes again: epoch e goes on where epoch e - 1 ended, and its buffer mixes its own rows alone.

    When the network fails for good, `failure` tells why, and (epoch, None) is yielded until the epoch's end: what was
    read before can then still be used, and all processes can stop after the same step.

    Args:
        source: What is read.
        settings: How it is read.
        rows_per_epoch: Rows of this process in an epoch; the same on all.
        process: Rank of this process.
        num_processes: Processes that share the stream.
        endless: Whether epochs are stretches of one order; None asks whether this process has more rows than an epoch.

    Attributes:
        endless: As the argument; a run that was begun otherwise sets it to False.
        failure: Why the stream broke off, or None.
        part: What this process reads.
        on_row: Called with the number of rows yielded so far in an epoch, for a progress bar; or None.
    """

    def __init__(
        self,
        source: _Source,
        settings: StreamSettings,
        rows_per_epoch: int,
        process: int = 0,
        num_processes: int = 1,
        endless: bool | None = None,
    ) -> None:
        self.source = source
        self.settings = settings
        self.rows_per_epoch = rows_per_epoch
        self.part: StreamPart = stream_part(source.counts, process, num_processes, rows_per_epoch)
        self.epoch = 0
        self.failure: StreamReadError | None = None
        self.on_row: Callable[[int], object] | None = None
        self._open: list[_ReadAhead[Any]] = []
        known = [count for count in source.counts if count is not None]
        self._counts = known if len(known) == len(source.counts) else None
        self.endless = rows_per_epoch < self._own_rows() if endless is None else endless
        self._stretch: _Stretch | None = None
        # Where epochs begin, as far as it was walked or said.
        self._places: dict[int, list[Any]] = {}

    def _own_rows(self) -> float:
        """Rows of this process in the whole stream; without end where that is unknown."""
        part, counts = self.part, self._counts
        return float("inf") if counts is None else part.count_rows(counts)

    def place_of_epoch(self, epoch: int) -> list[Any] | None:
        """Where this process begins an epoch, for `begin_epoch_at`; None where its place follows from its number."""
        if not self.endless or self._counts is not None:
            return None
        if self._stretch is not None and self._stretch.epoch == epoch - 1 and self._stretch.is_at_its_end:
            return self._stretch.walk.place
        return self._places.get(epoch)

    def begin_epoch_at(self, epoch: int, place: list[Any]) -> None:
        """Says where an epoch begins in shards whose lengths are unknown: what this process need not read again."""
        self._places[epoch] = place

    def __len__(self) -> int:
        return self.rows_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration."""
        self.epoch = epoch

    def close(self) -> None:
        """End the threads that read ahead, of every iteration."""
        self._stretch = None
        self._close(list(self._open))

    def _close(self, readers: list[_ReadAhead[Any]]) -> None:
        for reader in readers:
            reader.close()
            if reader in self._open:
                self._open.remove(reader)

    def __iter__(self) -> Iterator[tuple[int, StreamRow | None]]:
        epoch, yielded = self.epoch, 0
        # Its own: the iteration of an epoch before may be abandoned behind its last row, and is ended only when it is
        # collected as garbage, perhaps while this one is under way.
        readers: list[_ReadAhead[Any]] = []
        self.failure = None
        stretch = self._begin_stretch(epoch) if self.endless else None
        rows = self._rows(epoch, readers) if stretch is None else self._shuffled(stretch)
        try:
            for row in islice(rows, self.rows_per_epoch):
                yielded += 1
                if self.on_row is not None:
                    self.on_row(yielded)
                yield epoch, row
        except StreamReadError as error:
            self.failure = error
        finally:
            # The next epoch reads on where a stretch has ended.
            if stretch is None or not (stretch is self._stretch and stretch.is_at_its_end):
                self._close(readers if stretch is None else stretch.readers)
        for _ in range(self.rows_per_epoch - yielded):
            yield epoch, None

    def _begin_stretch(self, epoch: int) -> _Stretch:
        """The rows of an epoch of the endless order, read on from the epoch before, or from its own place."""
        before = self._stretch
        if before is not None and before.epoch == epoch - 1 and before.is_at_its_end:
            self._places = {epoch: before.walk.place}
            stretch = _Stretch(epoch, before.walk, before.rows, before.readers, before.ends_at + self.rows_per_epoch)
        else:
            if before is not None:
                self._close(before.readers)
            walk = EndlessWalk(self.part, self.settings.seed, self._places.get(epoch))
            readers: list[_ReadAhead[Any]] = []
            rows = walk.rows(lambda shard, row: self._read_ahead(shard, readers, row))
            behind = 0 if epoch in self._places else epoch * self.rows_per_epoch
            if self._counts is not None:
                walk.skip(behind, self._counts)
            else:
                deque(islice(rows, behind), maxlen=0)
            self._places = {epoch: walk.place}
            stretch = _Stretch(epoch, walk, rows, readers, walk.taken + self.rows_per_epoch)
        self._stretch = stretch
        return stretch

    def _shuffled(self, stretch: _Stretch) -> Iterator[StreamRow]:
        keys = self.settings.seed, stretch.epoch, 0, self.part.process
        rows = islice(stretch.rows, self.rows_per_epoch)
        yield from shuffle_rows(rows, self.settings.shuffle_buffer, *keys)
        if not stretch.is_at_its_end:
            raise StreamReadError(
                ", ".join(self.source.shard_names[:3]), 0, f"no rows for process {self.part.process}"
            )

    def _rows(self, epoch: int, readers: list[_ReadAhead[Any]]) -> Iterator[StreamRow]:
        """The part of this process over and over, in another order each time."""
        seed, process = self.settings.seed, self.part.process
        for number in count():
            order = shard_order(self.part, seed, epoch, number)
            some = False
            rows = (row for _, row in interleave(order, lambda shard: self._read_ahead(shard, readers)))
            for row in shuffle_rows(rows, self.settings.shuffle_buffer, seed, epoch, number, process):
                some = True
                yield row
            self._close(readers)
            readers.clear()
            if not some:
                raise StreamReadError(", ".join(self.source.shard_names[:3]), 0, f"no rows for process {process}")

    def _read_ahead(
        self, shard: int, readers: list[_ReadAhead[Any]], start: int = 0
    ) -> Iterator[tuple[int, StreamRow]]:
        reader = _ReadAhead(lambda wait: self._owned(shard, start, wait))
        readers.append(reader)
        self._open.append(reader)
        return reader

    def _owned(self, shard: int, start: int, wait: Callable[[float], object]) -> Iterator[tuple[int, StreamRow]]:
        """Numbers and rows of a shard that belong to this process; runs in the reader's thread."""
        name, expected = self.source.shard_names[shard], self.source.counts[shard]
        number = start - 1
        # Rows are counted beforehand on the local disk only.
        on_disk = expected is not None
        from_start = (start,) if start else ()
        cells = read_rows_with_retries(
            lambda: self.source.cells(shard, *from_start), name, self.settings.retries, wait, on_disk
        )
        for number, cell in enumerate(cells, start):
            if self.part.owns(shard, number):
                yield number, StreamRow(shard, number, cell)
        if expected is not None and number + 1 != expected:
            raise StreamReadError(name, number + 1, f"it had {expected} rows at the start")


@dataclass
class _Stretch:
    """The rows of one epoch in the endless order.

    Attributes:
        epoch: Which one.
        walk: Where it stands.
        rows: What it gives, beyond this epoch too.
        readers: Threads that read for it.
        ends_at: Rows that the walk has given when this epoch has all of its own.
    """

    epoch: int
    walk: EndlessWalk
    rows: Iterator[StreamRow]
    readers: list[_ReadAhead[Any]]
    ends_at: int

    @property
    def is_at_its_end(self) -> bool:
        """Whether the next epoch can go on from here."""
        return self.walk.taken == self.ends_at


class StreamBatchSampler(Sampler[list[Key]]):
    """Batches of a `StreamSampler`, each with spare rows of its neighbour; an incomplete last one is left out."""

    def __init__(self, sampler: StreamSampler, batch_size: int) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self._batches = BatchSampler(sampler, batch_size, drop_last=True)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Key]]:
        batches = cast(Iterator[list[Key]], iter(self._batches))
        first, second = next(batches, None), next(batches, None)
        if first is None:
            return
        yield first + _spare(second or [])
        if second is None:
            return
        before = first
        for batch in chain([second], batches):
            yield batch + _spare(before)
            before = batch


def _spare(neighbour: list[Key]) -> list[Key]:
    return [(SPARE, row) for _, row in neighbour[:SPARE_ROWS]]


class _ReadAhead(Generic[Row]):
    """Iterator over what a thread reads, at most `rows_ahead` rows behind it; errors come out where they arose.

    Args:
        open_rows: Called in the thread, with a function that waits so many seconds or until the reader is closed.
        rows_ahead: Rows that wait to be taken.
    """

    def __init__(self, open_rows: OpenRows[Row], rows_ahead: int = ROWS_AHEAD) -> None:
        self._waiting: Queue[tuple[Row | None, BaseException | None]] = Queue(rows_ahead)
        self._closed = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(open_rows,), name="stream-reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        if self._ended:
            raise StopIteration
        row, error = self._next_pair()
        if error is None:
            return row  # type: ignore[return-value]
        self._ended = True
        raise error

    def close(self) -> None:
        """End the thread; a read that is under way is waited for a moment only."""
        self._ended = True
        self._closed.set()
        # Garbage collection may close a reader in whatever thread it runs, also in the reader's own.
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=1.0)

    def _next_pair(self) -> tuple[Row | None, BaseException | None]:
        while True:
            try:
                return self._waiting.get(timeout=_LOOK_UP_SECONDS)
            except Empty:
                if not self._thread.is_alive() and self._waiting.empty():
                    return None, RuntimeError("the thread that reads the stream has ended without a word")

    def _read(self, open_rows: OpenRows[Row]) -> None:
        last: tuple[Row | None, BaseException | None] = (None, StopIteration())
        try:
            for row in open_rows(self._closed.wait):
                if not self._hand_over((row, None)):
                    return
        except BaseException as error:
            last = (None, error)
        self._hand_over(last)

    def _hand_over(self, pair: tuple[Row | None, BaseException | None]) -> bool:
        while not self._closed.is_set():
            try:
                self._waiting.put(pair, timeout=_LOOK_UP_SECONDS)
                return True
            except Full:
                continue
        return False
