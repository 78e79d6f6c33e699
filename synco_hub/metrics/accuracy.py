"""Top-k accuracy with a fixed rule for ties, and mean per-class accuracy: every class counts alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def target_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Rank of the target class among all classes, 0 for the best.

    Classes are ordered by falling score; among equal scores the class with the lower index comes first, so that the
    rank is the position of the target in a stable sort.

    Args:
        scores: Score of each class. Shape: (batch, num_classes).
        targets: Class indices, integers in [0, num_classes). Shape: (batch,).

    Returns:
        Ranks in [0, num_classes), int64. Shape: (batch,).

    Raises:
        ValueError: If the shapes do not fit, scores are NaN, or a target is out of range.
    """
    check_class_targets(scores, targets)
    own = scores.gather(1, targets[:, None].long())
    if bool(torch.isnan(scores).any()):
        raise ValueError(f"{int(torch.isnan(scores).sum())} of the scores are NaN: a rank needs numbers")
    lower_index = torch.arange(scores.shape[1], device=scores.device)[None, :] < targets[:, None]
    return ((scores > own) | ((scores == own) & lower_index)).sum(dim=1)


def top_k_accuracy(scores: Tensor, targets: Tensor, k: int = 1) -> float:
    """Share of the images whose target is among the k classes with the highest scores.

    Ties are broken by class index, the lower first (see :func:`target_ranks`).

    Args:
        scores: Score of each class: logits, probabilities or votes. Shape: (batch, num_classes).
        targets: Class indices, integers in [0, num_classes). Shape: (batch,).
        k: Number of guesses, from 1 to num_classes.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: If k is out of range, the batch is empty, shapes do not fit, scores are NaN or a target is out of
            range.
    """
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"k={k} guesses among {scores.shape[-1]} classes: choose k from 1 to the number of classes")
    ranks = target_ranks(scores, targets)
    return int((ranks < k).sum()) / len(ranks)


def hits_any_target(scores: Tensor, targets: Tensor) -> Tensor:
    """Whether the class with the highest score is one of several right ones; among equals the lowest index guesses.

    Args:
        scores: Score of each class. Shape: (batch, num_classes).
        targets: Class indices in [0, num_classes), padded by -1. Shape: (batch, most).

    Returns:
        False too for a row without a target, which should not be counted. Shape: (batch,).

    Raises:
        ValueError: If scores are NaN or a target is out of range.

    Source: ReaL accuracy, Beyer et al. 2020, "Are we done with ImageNet?".
    """
    if bool(torch.isnan(scores).any()):
        raise ValueError(f"{int(torch.isnan(scores).sum())} of the scores are NaN: a guess needs numbers")
    check_label_range(targets.clamp(min=0), scores.shape[1])
    classes = torch.arange(scores.shape[1], device=scores.device)
    best = scores == scores.amax(dim=1, keepdim=True)
    guesses = torch.where(best, classes, scores.shape[1]).amin(dim=1)
    return (targets == guesses[:, None]).any(dim=1)


def mean_per_class_accuracy(scores: Tensor, targets: Tensor) -> float:
    """Mean over the classes of the share of their images whose best-scored class is their own.

    Classes without an image are left out. Ties are broken by class index, the lower first.

    Args:
        scores: Score of each class. Shape: (batch, num_classes).
        targets: Class indices, integers in [0, num_classes). Shape: (batch,).

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: If the batch is empty, shapes do not fit, scores are NaN or a target is out of range.

    Source: the metric of Aircraft, Caltech-101, Flowers and Pets in Kornblith et al., "Do better ImageNet models
        transfer better?" (2019).
    """
    return mean_per_class_share(target_ranks(scores, targets) == 0, targets, scores.shape[1])


def mean_per_class_share(right: Tensor, targets: Tensor, num_classes: int) -> float:
    """Mean over the classes of the share of their images that are right.

    Args:
        right: Whether an image was classified rightly. Shape: (batch,).
        targets: Class indices in [0, num_classes). Shape: (batch,).
        num_classes: Number of classes; those without an image are left out.
    """
    return float(_shares_of_classes(right, targets, num_classes)[0].mean())


def _shares_of_classes(right: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Share of right images, and number of images, of each class that has any."""
    labels = targets.long()
    images = torch.bincount(labels, minlength=num_classes)
    hits = torch.bincount(labels[right], minlength=num_classes)
    present = images > 0
    return hits[present].double() / images[present], images[present]


def standard_error(percent: float, count: int) -> float:
    """Standard error in percentage points of a share of `count` independent images, √(p (1 − p) / n).

    It is 0 at 0 and 100 %, where the images at hand show no scatter.
    """
    share = min(max(percent / 100.0, 0.0), 1.0)
    return float(100.0 * math.sqrt(share * (1.0 - share) / count))


def mean_per_class_error(right: Tensor, targets: Tensor, num_classes: int) -> float:
    """Standard error in percentage points of :func:`mean_per_class_share`, whose classes are independent.

    Args:
        right: Whether an image was classified rightly. Shape: (batch,).
        targets: Class indices in [0, num_classes). Shape: (batch,).
        num_classes: Number of classes; those without an image are left out.
    """
    shares, images = _shares_of_classes(right, targets, num_classes)
    return float(100.0 * (shares * (1.0 - shares) / images).sum().sqrt() / len(shares))


def check_class_targets(scores: Tensor, targets: Tensor) -> None:
    """Check that ``targets`` are class indices for ``scores``.

    Args:
        scores: Shape: (batch, num_classes).
        targets: Shape: (batch,).
    """
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(
            f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)} do not fit: "
            "give scores of shape (batch, num_classes) and targets of shape (batch,)"
        )
    if len(targets) == 0:
        raise ValueError("the batch is empty: an accuracy needs at least one image")
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets are {targets.dtype}: give class indices as integers")
    check_label_range(targets, scores.shape[1])


def check_label_range(labels: Tensor, num_classes: int, whose: str = "target") -> None:
    """Check that every label is in [0, num_classes).

    Args:
        labels: Class indices. Shape: any.
        num_classes: Number of classes.
        whose: What the labels belong to, for the error message.

    Raises:
        ValueError: Naming the first label out of range and how many there are.
    """
    flat = labels.flatten()
    wrong = ((flat < 0) | (flat >= num_classes)).nonzero().flatten()
    if len(wrong) > 0:
        first = int(wrong[0])
        raise ValueError(
            f"{whose} {first} has label {int(flat[first])}, one of {len(wrong)} among {len(flat)} that are out of "
            f"range: with {num_classes} classes labels go from 0 to {num_classes - 1}"
        )
