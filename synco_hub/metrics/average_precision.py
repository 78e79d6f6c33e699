"""Average precision, by the step-wise integral and by the eleven points of PASCAL VOC 2007.

Both come from a detector's operating points: what it finds at each of its thresholds, the ground of every precision,
recall and false positive rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class OperatingPoints(NamedTuple):
    """Counts when all images with at least a threshold's score are called positive, thresholds falling.

    Equal scores share one threshold, so that no number depends on the order of the images.

    Attributes:
        true_positives: Positives found, float64. Shape: (thresholds,).
        false_positives: Negatives called positive, float64. Shape: (thresholds,).
    """

    true_positives: Tensor
    false_positives: Tensor


def operating_points(scores: Tensor, targets: Tensor) -> OperatingPoints:
    """Count true and false positives at every distinct score.

    Args:
        scores: The higher, the more positive. Shape: (images,).
        targets: 1 for positives, 0 for negatives, -1 for images that are left out. Shape: (images,).

    Raises:
        ValueError: If shapes do not fit, a score is NaN, a target is another number, or there is no positive.
    """
    if scores.ndim != 1 or targets.shape != scores.shape:
        raise ValueError(
            f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)} do not fit: both are (images,)"
        )
    broken = torch.isnan(scores).nonzero().flatten()
    if len(broken) > 0:
        raise ValueError(
            f"{len(broken)} of {len(scores)} scores are NaN, first at index {int(broken[0])}: no threshold orders them"
        )
    if not bool(((targets == 1) | (targets == 0) | (targets == -1)).all()):
        raise ValueError(
            "targets hold other numbers than 1 (positive), 0 (negative) and -1 (left out): use only these"
        )
    kept = targets != -1
    ordered, order = scores[kept].double().sort(descending=True)
    positive = (targets[kept] == 1)[order].double()
    if float(positive.sum()) == 0:
        raise ValueError(
            f"none of {len(positive)} targets is positive: recall has no meaning without one; leave the class out"
        )
    last_of_its_score = torch.ones_like(ordered, dtype=torch.bool)
    last_of_its_score[:-1] = ordered[1:] != ordered[:-1]
    found = positive.cumsum(0)
    called = torch.arange(1, len(positive) + 1, dtype=torch.float64, device=scores.device)
    return OperatingPoints(found[last_of_its_score], (called - found)[last_of_its_score])


def average_precision(scores: Tensor, targets: Tensor) -> float:
    """Area under the precision-recall curve as a sum of steps: Σ (recallᵢ − recallᵢ₋₁) · precisionᵢ.

    Also called AUPR. Images with equal scores enter together.

    Args:
        scores: The higher, the more positive. Shape: (images,), or (images, num_classes) for the mean over classes.
        targets: 1 positive, 0 negative, -1 left out (VOC's "difficult"). Shape: that of scores.

    Returns:
        A fraction in [0, 1]; over classes the mean of those with a positive.

    Raises:
        ValueError: If shapes do not fit, a score is NaN, a target is another number, or there is no positive.
    """
    return _mean_over_classes(_integral, scores, targets)


def voc_average_precision_11_point(scores: Tensor, targets: Tensor) -> float:
    """Mean over recall 0, 0.1, …, 1 of the best precision at that recall or a higher one.

    Args:
        scores: The higher, the more positive. Shape: (images,), or (images, num_classes) for mAP.
        targets: 1 positive, 0 negative, -1 left out (VOC's "difficult"). Shape: that of scores.

    Returns:
        A fraction in [0, 1]; over classes the mean of those with a positive.

    Raises:
        ValueError: If shapes do not fit, a score is NaN, a target is another number, or there is no positive.

    Source: Everingham et al., "The PASCAL visual object classes (VOC) challenge" (2010), section 4.2.
    """
    return _mean_over_classes(_eleven_points, scores, targets)


def _mean_over_classes(one_class: Callable[[Tensor, Tensor], float], scores: Tensor, targets: Tensor) -> float:
    if scores.ndim != 2:
        return one_class(scores, targets)
    if targets.shape != scores.shape:
        raise ValueError(
            f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)} do not fit: "
            "both are (images, num_classes)"
        )
    present = (targets == 1).any(dim=0).nonzero().flatten().tolist()
    if not present:
        raise ValueError(f"none of {targets.shape[1]} classes has a positive image: average precision needs one")
    return sum(one_class(scores[:, column], targets[:, column]) for column in present) / len(present)


def _integral(scores: Tensor, targets: Tensor) -> float:
    found, false = operating_points(scores, targets)
    precision = found / (found + false)
    gained = torch.diff(found, prepend=found.new_zeros(1)) / found[-1]
    return float((gained * precision).sum())


def _eleven_points(scores: Tensor, targets: Tensor) -> float:
    found, false = operating_points(scores, targets)
    best_from_here = (found / (found + false)).flip(0).cummax(0).values.flip(0)
    # In whole numbers: found / positives >= step / 10, because 0.1 + 0.2 is not 0.3 in floating point.
    steps = torch.arange(11, dtype=torch.float64, device=found.device) * found[-1]
    first = torch.searchsorted(10 * found, steps)
    return float(best_from_here[first].mean())
