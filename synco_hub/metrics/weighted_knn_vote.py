"""The weighted vote of the nearest neighbours: every neighbour votes for its class with exp(similarity / temperature).

Source: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, section 3.4; with cosine
similarity and temperature 0.07 it is the k-NN protocol of DINO, which the paper's Table 12 follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from synco_hub.metrics.accuracy import check_label_range

TEMPERATURE = 0.07


def weighted_knn_vote(
    scores: Tensor, targets: Tensor, num_classes: int, k: int | None = None, temperature: float = TEMPERATURE
) -> Tensor:
    """Votes of the k nearest neighbours for every class.

    Args:
        scores: Similarities of the neighbours, the nearest first. Shape: (queries, neighbours).
        targets: Labels of the neighbours, integers in [0, num_classes). Shape: (queries, neighbours).
        num_classes: Number of classes.
        k: How many neighbours vote, the first k; None for all that are given.
        temperature: Temperature of the weights, above 0.

    Returns:
        Votes, float64, each row in units of its nearest neighbour's weight (the common factor exp(-s₁/temperature)
        changes no order and lets any temperature be used without overflow). Classes without a neighbour have 0.
        Rank them by :func:`synco_hub.metrics.target_ranks`, which breaks ties by the lower class index.
        Shape: (queries, num_classes).

    Raises:
        ValueError: If shapes do not fit, k or the temperature is out of range, similarities rise, or a label is out
            of range.
    """
    (_, votes), *_ = weighted_knn_votes(
        scores, targets, num_classes, [scores.shape[-1] if k is None else k], temperature
    )
    return votes


def weighted_knn_votes(
    scores: Tensor, targets: Tensor, num_classes: int, ks: Sequence[int], temperature: float = TEMPERATURE
) -> Iterator[tuple[int, Tensor]]:
    """Votes for several k in one pass over the neighbours: those of a larger k continue those of the smaller one.

    Args:
        scores: Similarities of the neighbours, the nearest first. Shape: (queries, neighbours).
        targets: Labels of the neighbours, integers in [0, num_classes). Shape: (queries, neighbours).
        num_classes: Number of classes.
        ks: Numbers of neighbours, each from 1 to the neighbours given; taken in rising order, repetitions once.
        temperature: Temperature of the weights, above 0.

    Yields:
        k and its votes as :func:`weighted_knn_vote` gives them. The next step adds to the same tensor: copy what is
        to be kept.

    Raises:
        ValueError: As :func:`weighted_knn_vote`, at the first step.
    """
    _check_neighbours(scores, targets, num_classes, ks, temperature)
    # float64 keeps the order of addition from deciding near ties, and equal similarities give equal weights.
    similarities = scores.double()
    weights = ((similarities - similarities[:, :1]) / temperature).exp()
    labels = targets.long()
    votes = weights.new_zeros(len(scores), num_classes)
    counted = 0
    rows = torch.arange(len(scores), device=scores.device)[:, None]
    for k in sorted(set(ks)):
        if votes.is_cuda:  # adds in a fixed order, which scatter_add_ does on a CPU only
            votes.index_put_((rows, labels[:, counted:k]), weights[:, counted:k], accumulate=True)
        else:
            votes.scatter_add_(1, labels[:, counted:k], weights[:, counted:k])
        counted = k
        yield k, votes


def _check_neighbours(
    scores: Tensor, targets: Tensor, num_classes: int, ks: Sequence[int], temperature: float
) -> None:
    if scores.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(
            f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)} do not fit: "
            "both have the shape (queries, neighbours)"
        )
    if not ks or min(ks) < 1 or max(ks) > scores.shape[1]:
        raise ValueError(f"k={list(ks)} with {scores.shape[1]} neighbours given: choose k from 1 to their number")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: the weights exp(similarity / temperature) need one above 0")
    if not bool((scores[:, 1:] <= scores[:, :-1]).all()):
        raise ValueError("similarities rise or are NaN along a row: give the neighbours in order, the nearest first")
    check_label_range(targets, num_classes, "neighbour")
