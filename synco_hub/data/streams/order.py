"""Which rows of a stream a process reads in an epoch, and in which order.

Everything here depends on named integers alone: seed, epoch, pass, process. The order is therefore the same in every
library version and whatever the number of worker processes, which only decode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from synco_hub.data.samplers import derive_random_key

Row = TypeVar("Row")

BY_SHARDS = "by shards"
BY_ROWS = "by rows"
# Shards that are open at once: rows of several files mix before the buffer, and their downloads overlap.
OPEN_SHARDS = 4


@dataclass(frozen=True)
class StreamPart:
    """The part of a stream that one process reads, the same in every epoch.

    Attributes:
        process: Rank of the process.
        num_processes: Processes that share the stream.
        rule: `BY_SHARDS`: whole shards, each read by one process. `BY_ROWS`: every process reads every shard and keeps
            every `num_processes`-th row.
        shards: The shards to read, ascending.
        offsets: Added to a row's number to tell whose it is. Shape: (num_shards,).
    """

    process: int
    num_processes: int
    rule: str
    shards: tuple[int, ...]
    offsets: tuple[int, ...]

    def owns(self, shard: int, row: int) -> bool:
        """Whether this process trains on a row of a shard that it reads."""
        return self.rule == BY_SHARDS or (self.offsets[shard] + row) % self.num_processes == self.process

    def next_row(self, shard: int, row: int) -> int:
        """The first row of this process from a row of a shard on."""
        if self.rule == BY_SHARDS:
            return row
        return row + (self.process - self.offsets[shard] - row) % self.num_processes

    @property
    def pace(self) -> int:
        """From one row of this process in a shard to the next."""
        return 1 if self.rule == BY_SHARDS else self.num_processes

    def count_rows(self, rows_of_shard: Sequence[int]) -> int:
        """Rows of this process in all shards."""
        return sum(self.count_left(shard, 0, rows_of_shard[shard]) for shard in self.shards)

    def count_left(self, shard: int, row: int, rows: int) -> int:
        """Rows of this process in a shard of so many rows, from a row on."""
        return max(0, -(-(rows - self.next_row(shard, row)) // self.pace))


def stream_part(counts: Sequence[int | None], process: int, num_processes: int, rows_needed: int) -> StreamPart:
    """Divide a stream among processes, as `datasets.distributed.split_dataset_by_node` does: by shards where they fit.

    They fit if their number is a multiple of the processes and, where the rows of each are known, if no process would
    have fewer rows than it needs for an epoch. Else the rows are dealt out in turn.

    Args:
        counts: Rows of each shard, None where unknown. Shape: (num_shards,).
        process: Rank.
        num_processes: Processes in all.
        rows_needed: Rows that each process trains on in an epoch.
    """
    known = [count for count in counts if count is not None]
    all_known = len(known) == len(counts)
    fits = len(counts) % num_processes == 0
    if fits and all_known and num_processes > 1:
        fits = min(sum(known[rank::num_processes]) for rank in range(num_processes)) >= rows_needed
    # Known counts continue the numbering from shard to shard: then no process has two rows more than another.
    offsets = [sum(known[:shard]) for shard in range(len(counts))] if all_known else list(range(len(counts)))
    shards = range(process, len(counts), num_processes) if fits else range(len(counts))
    return StreamPart(process, num_processes, BY_SHARDS if fits else BY_ROWS, tuple(shards), tuple(offsets))


def shard_order(part: StreamPart, *keys: int) -> list[int]:
    """The shards of a part in the random order that the keys name: (seed, epoch, pass)."""
    return sorted(part.shards, key=lambda shard: (derive_random_key(*keys, shard), shard))


def interleave(
    shards: Iterable[int], read: Callable[[int], Iterator[Row]], num_open: int = OPEN_SHARDS
) -> Iterator[Row]:
    """Rows of several shards in turn; where one ends, the next takes its place."""
    waiting = deque(shards)
    turns: deque[Iterator[Row]] = deque()
    while waiting or turns:
        while waiting and len(turns) < num_open:
            turns.append(read(waiting.popleft()))
        rows = turns.popleft()
        for row in rows:
            yield row
            turns.append(rows)
            break
        else:
            if waiting:
                turns.appendleft(read(waiting.popleft()))


def shuffle_rows(rows: Iterable[Row], buffer_size: int, *keys: int) -> Iterator[Row]:
    """Rows in the order in which a buffer gives them away: each new row takes the place of a random one.

    Args:
        rows: Anything.
        buffer_size: Rows that are held; up to 1 keeps the order.
        *keys: Name the random order: (seed, epoch, pass, process).
    """
    buffer: list[Row] = []
    drawn = 0
    for row in rows:
        if len(buffer) < buffer_size:
            buffer.append(row)
            continue
        if not buffer:
            yield row
            continue
        slot = derive_random_key(*keys, drawn) % len(buffer)
        drawn += 1
        leaving, buffer[slot] = buffer[slot], row
        yield leaving
    while buffer:
        slot = derive_random_key(*keys, drawn) % len(buffer)
        drawn += 1
        buffer[slot], buffer[-1] = buffer[-1], buffer[slot]
        yield buffer.pop()


class EndlessWalk:
    """A place in the endless order of a part: its shards in turn, as `interleave` takes them, pass after pass.

    No buffer mixes these rows, so that a place is a few numbers, and the next epoch can begin where one ended. Every
    row comes once in a pass.

    Args:
        part: What is walked through.
        seed: Another seed orders the shards otherwise.
        place: Of `place` of an earlier walk; None for the beginning.

    Attributes:
        taken: Rows that this walk has given.
    """

    def __init__(self, part: StreamPart, seed: int, place: Sequence[Any] | None = None) -> None:
        self.part, self.seed, self.taken = part, seed, 0
        begin: Sequence[Any] = (0, 0, ()) if place is None else place
        self._pass, self._begun, turns = int(begin[0]), int(begin[1]), begin[2]
        # Shard and the next row of it that may be the next one.
        self._turns: deque[tuple[int, int]] = deque((int(shard), int(row)) for shard, row in turns)

    @property
    def place(self) -> list[Any]:
        """Number of the pass, shards that it began, and of the open ones shard and row; JSON values."""
        return [self._pass, self._begun, [list(turn) for turn in self._turns]]

    def rows(self, read: Callable[[int, int], Iterator[tuple[int, Row]]]) -> Iterator[Row]:
        """Rows without end, unless a whole pass has none.

        Args:
            read: Gives (number, row) of a shard from a row on, those of other processes left out.
        """
        readers = {shard: read(shard, row) for shard, row in self._turns}
        found = True
        while True:
            order = shard_order(self.part, self.seed, self._pass, 0)
            if not self._turns and self._begun >= len(order):
                if not found:
                    return
                self._pass, self._begun, found = self._pass + 1, 0, False
                continue
            self._open(order)
            for shard, row in self._turns:
                if shard not in readers:
                    readers[shard] = read(shard, row)
            shard, _ = self._turns.popleft()
            for number, value in readers[shard]:
                self._turns.append((shard, number + 1))
                self.taken, found = self.taken + 1, True
                yield value
                break
            else:
                del readers[shard]
                self._replace(order)

    def skip(self, count: int, rows_of_shard: Sequence[int]) -> None:
        """Go on by so many rows without reading any, where the rows of every shard are known."""
        part, pace = self.part, self.part.pace
        in_a_pass = part.count_rows(rows_of_shard)
        if not in_a_pass:
            return
        while count:
            order = shard_order(part, self.seed, self._pass, 0)
            if not self._turns and (self._begun >= len(order) or not self._begun):
                self._pass += bool(self._begun) + (count // in_a_pass)
                self._begun, count = 0, count % in_a_pass
                order = shard_order(part, self.seed, self._pass, 0)
                if not count:
                    return
            self._open(order)
            left = min(part.count_left(shard, row, rows_of_shard[shard]) for shard, row in self._turns)
            rounds = min(left, count // len(self._turns))
            if rounds:
                further = (rounds - 1) * pace + 1
                self._turns = deque((shard, part.next_row(shard, row) + further) for shard, row in self._turns)
                count -= rounds * len(self._turns)
                continue
            shard, row = self._turns.popleft()
            if part.count_left(shard, row, rows_of_shard[shard]):
                self._turns.append((shard, part.next_row(shard, row) + 1))
                count -= 1
            else:
                self._replace(order)

    def _open(self, order: Sequence[int]) -> None:
        """At the beginning of a pass its first shards."""
        while not self._begun or (len(self._turns) < OPEN_SHARDS and self._begun < len(order)):
            self._turns.append((order[self._begun], 0))
            self._begun += 1

    def _replace(self, order: Sequence[int]) -> None:
        """The next shard in place of one that has ended."""
        if self._begun < len(order):
            self._turns.appendleft((order[self._begun], 0))
            self._begun += 1
