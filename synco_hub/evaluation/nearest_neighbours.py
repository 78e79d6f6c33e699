"""Exact cosine nearest neighbours of many queries in a large bank, in bounded memory.

One pass over a bank in bounded memory: the best rows of each query by cosine similarity.

A bank block is normalised and copied to the device once, all queries pass over it, and the best so far are kept.
Each similarity is packed with the index of its bank row into one integer whose order is "higher similarity, then
lower index", so that merging blocks is one `topk` and ties come out the same for every block size.

Within a block most similarities are never sorted: groups of neighbouring columns are reduced to their maximum, and
the k best elements all lie in the k groups with the best maxima (k better groups would hold k better elements).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

_LOW_BITS = 0xFFFFFFFF
_LOWEST_KEY = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class SearchBlocks:
    """How much is looked at together; memory grows with queries x bank (4 bytes each), the result does not change.

    Attributes:
        queries: Queries a block.
        bank: Bank rows a block.
        group: Neighbouring bank rows that are first represented by their best one.
        rows: Queries whose candidates are sorted together on a CPU, so that they stay in its cache.
    """

    queries: int = 256
    bank: int = 131_072
    group: int = 32
    rows: int = 64

    def __post_init__(self) -> None:
        for name in ("queries", "bank", "group", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: a block holds at least 1")


def find_best_keys(
    bank: Tensor,
    queries: Tensor,
    count: int,
    device: torch.device | str,
    blocks: SearchBlocks,
    progress: bool = False,
) -> Tensor:
    """The best bank rows of each query by cosine similarity, as packed keys.

    Args:
        bank: Features of any norm. Shape: (bank, dim).
        queries: Features of any norm. Shape: (queries, dim).
        count: How many to keep, from 1 to the size of the bank.
        device: Where similarities are computed.
        blocks: Block sizes.
        progress: Show a progress bar in similarities a second.

    Returns:
        Keys on the device, falling; :func:`unpacked` gives similarities and indices. Shape: (queries, count).
    """
    best = torch.full((len(queries), count), _LOWEST_KEY, dtype=torch.int64, device=device)
    shape = (min(blocks.queries, len(queries)), -(-min(blocks.bank, len(bank)) // blocks.group) * blocks.group)
    # One buffer for all blocks: a fresh one for each would cost more in page faults than the selection below.
    buffer = torch.empty(shape, device=device)
    with tqdm(
        total=len(bank) * len(queries), desc="nearest neighbours", unit="pair", unit_scale=True, disable=not progress
    ) as bar:
        for first in range(0, len(bank), blocks.bank):
            bank_block = normalise(bank[first : first + blocks.bank], device)
            for start in range(0, len(queries), blocks.queries):
                query_block = normalise(queries[start : start + blocks.queries], device)
                scores = _similarities(query_block, bank_block, buffer, blocks.group)
                step = blocks.rows if scores.device.type == "cpu" else len(scores)
                for row in range(0, len(scores), step):
                    rows = slice(start + row, min(start + row + step, start + len(scores)))
                    best[rows] = _merge(best[rows], scores[row : row + step], first, blocks.group)
                bar.update(len(query_block) * len(bank_block))
    return best


def normalise(features: Tensor, device: torch.device | str) -> Tensor:
    """Unit vectors in float32 on a device. Shape: (images, dim)."""
    return F.normalize(features.to(device=device, dtype=torch.float32), dim=1)


def _similarities(queries: Tensor, bank: Tensor, buffer: Tensor, group: int) -> Tensor:
    """Similarities in the buffer, filled up with -inf to whole groups. Shape: (queries, groups * group)."""
    width = -(-len(bank) // group) * group
    scores = buffer[: len(queries), :width]
    torch.mm(queries, bank.T, out=scores[:, : len(bank)])
    scores[:, len(bank) :] = -torch.inf
    return scores


def _merge(best: Tensor, scores: Tensor, first: int, group: int) -> Tensor:
    """The best keys of those so far and of one block.

    Args:
        best: Keys so far, falling. Shape: (rows, k).
        scores: Similarities to bank rows first, first + 1, ... Shape: (rows, groups * group).
        first: Bank row of the first column.
        group: Columns a group.

    Returns:
        Keys, falling. Shape: (rows, k).
    """
    k = best.shape[1]
    maxima = scores.unflatten(1, (-1, group)).amax(dim=2)  # (rows, groups)
    starts = torch.arange(0, scores.shape[1], group, device=scores.device)
    group_keys = pack(maxima, starts + first)
    # Groups that cannot reach the k best so far need no look; the row with the most decides how many are taken.
    promising = min(k, int((group_keys > best[:, -1:]).sum(dim=1).max()))
    if promising == 0:
        return best
    chosen = starts[group_keys.topk(promising, sorted=False).indices]  # (rows, promising)
    columns = (chosen[:, :, None] + torch.arange(group, device=scores.device)).flatten(1)  # (rows, promising * group)
    candidates = pack(scores.gather(1, columns), columns + first)
    return torch.cat([best, candidates], dim=1).topk(k).values


def pack(similarities: Tensor, indices: Tensor) -> Tensor:
    """Integers ordered by rising similarity, then by falling index.

    Args:
        similarities: float32.
        indices: Bank rows, below 2³². Shape: as the similarities', or one that broadcasts to it.
    """
    # Adding 0 turns -0 into +0. IEEE bits of negative numbers order the wrong way round: flip all but the sign.
    bits = (similarities + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(torch.int64) << 32) | (_LOW_BITS - indices)


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Similarities, float32, and indices, int64, of what :func:`packed` made. Shapes: as the keys'."""
    ordered = (keys >> 32).to(torch.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), _LOW_BITS - (keys & _LOW_BITS)


@dataclass(frozen=True)
class Neighbours:
    """The k nearest bank rows of each query, the nearest first, the lower index first among equals.

    Attributes:
        similarities: Cosine similarities, float32. Shape: (queries, k).
        indices: Rows of the bank, int64. Shape: (queries, k).
    """

    similarities: Tensor
    indices: Tensor


def nearest_neighbours(
    bank: Tensor,
    queries: Tensor,
    k: int,
    device: torch.device | str = "cpu",
    blocks: SearchBlocks | None = None,
    progress: bool = False,
) -> Neighbours:
    """Find the k nearest bank rows of each query by cosine similarity, exactly.

    Args:
        bank: Features, any float type, normalised or not, finite. Shape: (bank, dim).
        queries: Features, finite. Shape: (queries, dim).
        k: Number of neighbours, from 1 to the size of the bank.
        device: Where similarities are computed; bank and queries may lie elsewhere.
        blocks: Block sizes; None for the defaults (about 0.2 GB beyond the features).
        progress: Show a progress bar in similarities a second.

    Returns:
        Neighbours on that device.

    Raises:
        ValueError: If shapes do not fit or k is out of range.
    """
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise ValueError(
            f"bank {tuple(bank.shape)} and queries {tuple(queries.shape)} do not fit: "
            "both are (images, dim) features of the same model"
        )
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k} neighbours in a bank of {len(bank)} images: choose k from 1 to the size of the bank")
    keys = find_best_keys(bank, queries, k, device, blocks or SearchBlocks(), progress)
    return Neighbours(*unpack(keys))
