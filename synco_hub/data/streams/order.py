"""Which rows of a stream a process reads in an epoch, and in which order.

Everything here depends on named integers alone: seed, epoch, pass, process. The order is therefore the same in every
library version and whatever the number of worker processes, which only decode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

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
