"""Nearest neighbours from half precision, exactly: candidates by cheap dot products, their order by exact ones.

The unit vectors x, y are rounded to x̂ = x + r and ŷ = y + t in bfloat16 or float16. Then

    |x̂·ŷ − x·y| = |r·ŷ + x·t| ≤ ‖r‖‖ŷ‖ + ‖x‖‖t‖ ≤ ‖r‖ + ‖t‖ up to second order,

and ‖r‖, ‖t‖ are measured, not estimated (at most 2⁻⁸ in bfloat16, 2⁻¹¹ in float16, typically half of it). Products of
two halves are exact in float32, so that summing dim of them in any order adds at most dim · 2⁻²⁴; tensor cores cut
off where others round, within a block after aligning to its largest term, for which dim · 2⁻²² is enough. One per
cent on top covers the second order, the rounding of the norms, and norms that are 1 up to rounding. Where the sum is
written in half precision (every device but CUDA), a score that was rounded to s was at most s + u|s| / (1 − u) before,
with the unit roundoff u.

With c > k candidates kept, no other bank row scored above the lowest of them, so its similarity is at most that score
plus the bound. Candidates whose k-th exact similarity is higher hold the k nearest: these queries are certain. The
others, and only they, are searched in float64.

Exact means: similarities of the float32 unit vectors, summed in float64 and rounded to float32 once, the lower index
first among equals. A search that sums in float32 finds the same but where similarities differ by its own rounding.

Source of how tensor cores add: Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores (2021).
"""

from __future__ import annotations

import logging
from typing import Literal, get_args

import torch
from torch import Tensor

from synco_hub.evaluation.neighbours.neighbour_scan import (
    SearchBlocks,
    best_keys,
    normalised,
    packed,
    product_dtype,
    unpacked,
)

logger = logging.getLogger(__name__)

SearchPrecision = Literal["fp32", "bf16", "fp16"]
"""Arithmetic of the search. Halves are for devices that multiply them faster; of the two fp16 has three more digits,
and unit vectors need none of bf16's range."""

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SUM_ROUNDOFF = 2.0**-22
_SECOND_ORDER = 1.01


def half_precision(precision: str, device: torch.device | str) -> torch.dtype | None:
    """The half precision that candidates are found in, None for a search in float32 alone.

    Args:
        precision: See :data:`SearchPrecision`.
        device: Where similarities are computed.

    Raises:
        ValueError: If there is no such precision, or the device cannot settle the order in float64.
    """
    if precision not in get_args(SearchPrecision):
        raise ValueError(f"search precision {precision!r}: choose one of {', '.join(get_args(SearchPrecision))}")
    kind = torch.device(device).type
    if precision != "fp32" and kind == "mps":
        raise ValueError(f"search precision {precision!r} on {kind}, which has no float64 to re-rank in: choose fp32")
    return _HALVES.get(precision)


def candidates_for(k: int, bank_size: int) -> int:
    """How many candidates are kept for k neighbours."""
    return min(2 * k + 32, bank_size)


def exact_keys_from_half(
    bank: Tensor,
    queries: Tensor,
    k: int,
    dtype: torch.dtype,
    device: torch.device | str,
    blocks: SearchBlocks,
    progress: bool = False,
) -> Tensor:
    """The k nearest bank rows of each query, found in half precision and certified.

    Args:
        bank: Features of any norm. Shape: (bank, dim).
        queries: Features of any norm. Shape: (queries, dim).
        k: Number of neighbours, from 1 to the size of the bank.
        dtype: torch.bfloat16 or torch.float16.
        device: Where similarities are computed.
        blocks: Block sizes.
        progress: Show a progress bar.

    Returns:
        Packed keys on the device, falling. Shape: (queries, k).
    """
    count = candidates_for(k, len(bank))
    best = torch.empty(len(queries), k, dtype=torch.int64, device=device)
    unsure = torch.arange(len(queries))
    for arithmetic in (dtype, torch.float64):
        if len(unsure) == 0:
            break
        asked = queries if len(unsure) == len(queries) else queries[unsure.to(queries.device)]
        scored, indices = unpacked(best_keys(bank, asked, count, arithmetic, device, blocks, progress))
        exact, bound = exact_similarities(bank, asked, indices, arithmetic, device, blocks)
        keys = packed(exact, indices).topk(k).values
        if arithmetic == torch.float64 or count == len(bank):
            certain = torch.ones(len(asked), dtype=torch.bool)
        else:
            limit = highest_left_out(scored[:, -1], bound, dtype, device)
            certain = (unpacked(keys)[0][:, -1].double() > limit).cpu()
        best[unsure[certain].to(best.device)] = keys[certain.to(keys.device)]
        unsure = unsure[~certain]
        logger.info("%s settles the neighbours of %d of %d queries", arithmetic, int(certain.sum()), len(asked))
    return best


def highest_left_out(lowest_kept: Tensor, bound: Tensor, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """What the exact similarity of a row that is no candidate cannot exceed.

    Args:
        lowest_kept: Score of each query's last candidate. Shape: (queries,).
        bound: See :func:`exact_similarities`. Shape: (queries,).
        dtype: The half precision.
        device: Where the scores were computed.

    Returns:
        Shape: (queries,), float64.
    """
    score = lowest_kept.double()
    if product_dtype(dtype, device) != torch.float32:
        score = score + torch.finfo(dtype).eps / 2 * _SECOND_ORDER * score.abs()
    return score + bound


def exact_similarities(
    bank: Tensor,
    queries: Tensor,
    indices: Tensor,
    dtype: torch.dtype,
    device: torch.device | str,
    blocks: SearchBlocks,
) -> tuple[Tensor, Tensor]:
    """Similarities to chosen bank rows, summed in float64, and how far those of ``dtype`` can be off.

    Args:
        bank: Features of any norm; read block by block. Shape: (bank, dim).
        queries: Features of any norm. Shape: (queries, dim).
        indices: Bank rows of each query, on the device. Shape: (queries, count).
        dtype: The arithmetic whose error is asked for.
        device: Where it is computed.
        blocks: Block sizes.

    Returns:
        Similarities rounded to float32 (queries, count), and for each query the bound on the difference between a
        float32 sum of products of ``dtype`` and the similarity, float64 (queries,).
    """
    exact = torch.empty(indices.shape, device=device)
    query_error = torch.empty(len(queries), dtype=torch.float64, device=device)
    bank_error = 0.0
    # Few enough rows to stay in a CPU's cache, or enough to keep an accelerator busy.
    elements = 2**18 if torch.device(device).type == "cpu" else 2**24
    step = max(1, elements // (indices.shape[1] * bank.shape[1]))
    for first in range(0, len(bank), blocks.bank):
        bank_block = normalised(bank[first : first + blocks.bank], device)
        bank_error = max(bank_error, float(_rounded_off(bank_block, dtype).max()))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            query_block = normalised(queries[rows], device)
            query_error[rows] = _rounded_off(query_block, dtype)
            _fill(exact[rows], query_block, bank_block, indices[rows] - first)
    return exact, (query_error + bank_error + bank.shape[1] * _SUM_ROUNDOFF) * _SECOND_ORDER


def _fill(exact: Tensor, queries: Tensor, bank: Tensor, columns: Tensor) -> None:
    """Fill in the similarities to those rows that are in this part of the bank.

    Args:
        exact: Similarities of the queries, here and there known already. Shape: (queries, count).
        queries: Unit vectors. Shape: (queries, dim).
        bank: Unit vectors. Shape: (bank, dim).
        columns: Rows of ``bank``, or outside of it. Shape: (queries, count).
    """
    inside = (columns >= 0) & (columns < len(bank))
    width = int(inside.sum(dim=1).max())
    if width == 0:
        return
    # Rows of the bank in front, and as many as the query with the most of them has.
    places = inside.to(torch.uint8).topk(width, dim=1).indices  # (queries, width)
    wanted = columns.gather(1, places).clamp(0, len(bank) - 1)
    vectors = bank.index_select(0, wanted.flatten()).double().unflatten(0, wanted.shape)  # (queries, width, dim)
    found = torch.bmm(vectors, queries.double()[:, :, None]).squeeze(2).float()
    exact.scatter_(1, places, torch.where(inside.gather(1, places), found, exact.gather(1, places)))


def _rounded_off(unit: Tensor, dtype: torch.dtype) -> Tensor:
    """Length of what rounding takes from each vector, float64. Shape: (images,)."""
    # A number and what it is rounded to differ by a float32, and the bound allows for the rounding of the norm.
    parts = [(part.to(dtype).to(part.dtype) - part).norm(dim=1) for part in unit.split(1024)]
    return torch.cat(parts).double()
