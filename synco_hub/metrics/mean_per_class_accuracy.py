"""Mean per-class accuracy: every class counts alike, however many images it has."""

from __future__ import annotations

import torch
from torch import Tensor

from synco_hub.metrics.top_k_accuracy import target_ranks


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
    labels = targets.long()
    images = torch.bincount(labels, minlength=num_classes)
    hits = torch.bincount(labels[right], minlength=num_classes)
    present = images > 0
    return float((hits[present].double() / images[present]).mean())
