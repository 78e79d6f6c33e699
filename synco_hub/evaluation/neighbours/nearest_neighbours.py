"""Exact cosine nearest neighbours of many queries in a large bank, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from synco_hub.evaluation.neighbours.neighbour_scan import SearchBlocks, best_keys, unpacked


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
        Neighbours on the CPU.

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
    keys = best_keys(bank, queries, k, device, blocks or SearchBlocks(), progress)
    return Neighbours(*unpacked(keys.cpu()))
