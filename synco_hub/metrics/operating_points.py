"""What a detector finds at each of its thresholds: the ground of every precision, recall and false positive rate."""

from __future__ import annotations

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
