"""Accuracy of the weighted k-NN vote on features, for every k from one search."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synco_hub.data import UNLABELED
from synco_hub.evaluation.neighbours.nearest_neighbours import nearest_neighbours
from synco_hub.features import check_finite
from synco_hub.metrics import check_label_range, target_ranks, weighted_knn_votes
from synco_hub.metrics.weighted_knn_vote import TEMPERATURE

_VOTED_TOGETHER = 1024


def knn_accuracy(
    bank_features: Tensor,
    bank_labels: Tensor,
    query_features: Tensor,
    query_labels: Tensor,
    ks: Sequence[int],
    num_classes: int,
    temperature: float = TEMPERATURE,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, float]:
    """Accuracy of the weighted vote for every k, from one search.

    Ties are settled by index: among equally similar bank images the lower row is the nearer one, among classes with
    equal votes the lower class is the better guess.

    Args:
        bank_features: Shape: (bank, dim).
        bank_labels: Class indices. Shape: (bank,).
        query_features: Shape: (queries, dim).
        query_labels: Class indices. Shape: (queries,).
        ks: Numbers of neighbours, each from 1 to the size of the bank.
        num_classes: Number of classes.
        temperature: Temperature of the vote, above 0.
        device: Where similarities are computed; the vote is always counted on the CPU, in a fixed order.
        progress: Show a progress bar.

    Returns:
        ``top1_k<k>`` for every k and, from 5 classes on, ``top5_k<k>``; in percent.

    Raises:
        ValueError: If a side is empty, shapes do not fit, a feature is NaN, a label is missing or out of range, or a
            k or the temperature is out of range.
    """
    _check_side("training", bank_features, bank_labels, num_classes)
    _check_side("test", query_features, query_labels, num_classes)
    if not ks:
        raise ValueError("ks=() names no number of neighbours: give at least one, such as 10")
    if min(ks) < 1 or max(ks) > len(bank_features):
        raise ValueError(
            f"k={max(ks) if min(ks) >= 1 else min(ks)} with {len(bank_features)} training images: "
            "choose every k from 1 to their number"
        )
    check_temperature(temperature)
    found = nearest_neighbours(bank_features, query_features, max(ks), device, progress=progress)
    guesses = (1, 5) if num_classes >= 5 else (1,)
    right = {(guess, k): 0 for k in sorted(set(ks)) for guess in guesses}
    neighbour_labels, query_labels = bank_labels.cpu()[found.indices], query_labels.cpu()
    for start in range(0, len(query_labels), _VOTED_TOGETHER):
        rows = slice(start, start + _VOTED_TOGETHER)
        for k, votes in weighted_knn_votes(
            found.similarities[rows], neighbour_labels[rows], num_classes, ks, temperature
        ):
            ranks = target_ranks(votes, query_labels[rows])
            for guess in guesses:
                right[guess, k] += int((ranks < guess).sum())
    return {f"top{guess}_k{k}": 100.0 * count / len(query_labels) for (guess, k), count in right.items()}


def check_temperature(temperature: float) -> None:
    """Check that a temperature is above 0.

    Raises:
        ValueError: If it is not.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: the weights exp(similarity / temperature) need one above 0")


def _check_side(name: str, features: Tensor, labels: Tensor, num_classes: int) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"{name} features {tuple(features.shape)} and labels {tuple(labels.shape)} do not fit: "
            "give (images, dim) features and one class index an image"
        )
    if len(features) == 0:
        raise ValueError(f"the {name} split is empty: a vote needs images on both sides")
    check_finite(features)
    if bool((labels == UNLABELED).any()):
        raise ValueError(
            f"{int((labels == UNLABELED).sum())} of {len(labels)} {name} images have no label: "
            "k-NN needs a class for every image, such as one sub-folder per class"
        )
    check_label_range(labels, num_classes, f"{name} image")
