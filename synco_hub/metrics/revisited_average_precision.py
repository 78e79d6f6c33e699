"""Average precision and precision at k of the revisited Oxford and Paris retrieval benchmarks.

Relation to :func:`synco_hub.metrics.average_precision`: here the area is a sum of trapezoids, not of steps; the first
trapezoid begins at precision 1 if the first image is a positive, else at 0. Junk images leave the ranking.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

POSITIVE, NEGATIVE, JUNK = 1, 0, -1


def revisited_average_precision(scores: Tensor, targets: Tensor) -> float:
    """Area under the precision-recall curve by trapezoids, junk images removed from the ranking.

    Images with equal scores are ranked by their index.

    Args:
        scores: Similarity of each database image to the query, the higher the nearer. Shape: (images,), or
            (queries, images) for the mean over the queries that have a positive.
        targets: 1 positive, 0 negative, -1 junk. Shape: that of scores.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: If shapes do not fit, a score is NaN, a target is another number, or no query has a positive.

    Source: Radenović et al., "Revisiting Oxford and Paris" (2018), section 4; its public evaluation code.
    """
    return _mean_over_queries(_trapezoids, scores, targets)


def revisited_precision_at_k(scores: Tensor, targets: Tensor, k: int) -> float:
    """Share of positives among the first k images, junk removed.

    Where the last positive stands before rank k, its rank takes the place of k, so that a query with fewer than k
    positives can reach 1.

    Args:
        scores: As in :func:`revisited_average_precision`.
        targets: As there.
        k: Images looked at; the benchmark's are 1, 5 and 10.

    Returns:
        A fraction in [0, 1]; over several queries the mean of those that have a positive.

    Raises:
        ValueError: As there, or if k is below 1.
    """
    if k < 1:
        raise ValueError(f"k={k}: precision needs at least the first image; the benchmark's k are 1, 5 and 10")

    def at_k(ranks: Tensor) -> float:
        looked_at = min(int(ranks[-1]) + 1, k)
        return int((ranks < looked_at).sum()) / looked_at

    return _mean_over_queries(at_k, scores, targets)


def _trapezoids(ranks: Tensor) -> float:
    """From the ranks of the positives, rising from 0."""
    found = torch.arange(len(ranks), dtype=torch.float64, device=ranks.device)
    # 0 / 0 where the first image is positive: precision before any image is 1 by convention.
    before = torch.where(ranks == 0, 1.0, found / ranks.clamp_min(1))
    after = (found + 1) / (ranks + 1)
    return float((before + after).sum() / (2 * len(ranks)))


def _mean_over_queries(one_query: Callable[[Tensor], float], scores: Tensor, targets: Tensor) -> float:
    if scores.shape != targets.shape or scores.ndim not in (1, 2):
        raise ValueError(
            f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)} do not fit: both are (images,) or "
            "(queries, images)"
        )
    rows, labels = (scores[None], targets[None]) if scores.ndim == 1 else (scores, targets)
    broken = torch.isnan(rows)
    if broken.any():
        first = int(broken.flatten().nonzero()[0]) % rows.shape[1]
        raise ValueError(f"{int(broken.sum())} of {broken.numel()} scores are NaN, first at image {first}")
    if not ((labels == POSITIVE) | (labels == NEGATIVE) | (labels == JUNK)).all():
        raise ValueError("targets hold other numbers than 1 (positive), 0 (negative) and -1 (junk)")
    values = [
        one_query(ranks) for row, label in zip(rows, labels, strict=True) if len(ranks := _positive_ranks(row, label))
    ]
    if not values:
        raise ValueError(f"none of {len(rows)} queries has a positive image: average precision needs one")
    return sum(values) / len(values)


def _positive_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    kept = targets != JUNK
    order = scores[kept].sort(descending=True, stable=True).indices
    return (targets[kept][order] == POSITIVE).nonzero().flatten()
