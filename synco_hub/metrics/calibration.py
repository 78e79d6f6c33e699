"""How far a classifier's probabilities can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from synco_hub.metrics.accuracy import check_class_targets

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, bin by bin.

    Attributes:
        counts: Images whose highest probability lies in the bin. Shape: (bins,).
        confidence: Their mean highest probability; 0 in an empty bin. Shape: (bins,).
        accuracy: Share of them that is right; 0 in an empty bin. Shape: (bins,).
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and accuracy, weighted by images; a fraction in [0, 1]."""
        weights = self.counts.double() / self.counts.sum()
        return float((weights * (self.confidence - self.accuracy).abs()).sum())


def measure_reliability(probabilities: Tensor, targets: Tensor, bins: int = BINS) -> Reliability:
    """Sort images by their highest probability into bins of equal width.

    Args:
        probabilities: Of each class. Shape: (images, num_classes).
        targets: Class indices. Shape: (images,).
        bins: Bins from 0 to 1; each holds its upper edge.

    Raises:
        ValueError: If the shapes do not fit or a target is out of range.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    check_class_targets(probabilities, targets)
    highest, guess = probabilities.double().max(dim=1)
    of_bin = ((highest * bins).ceil().long() - 1).clamp(0, bins - 1)
    counts = torch.bincount(of_bin, minlength=bins)
    pairs = (highest, (guess == targets).double())
    sums = [torch.zeros(bins, dtype=torch.float64).index_add_(0, of_bin, each) for each in pairs]
    confidence, accuracy = (each / counts.clamp(min=1) for each in sums)
    return Reliability(counts, confidence, accuracy)


def negative_log_likelihood(log_probabilities: Tensor, targets: Tensor) -> float:
    """Mean of −ln p of the right class, in nats.

    Args:
        log_probabilities: Of each class. Shape: (images, num_classes).
        targets: Class indices. Shape: (images,).

    Raises:
        ValueError: If the shapes do not fit or a target is out of range.
    """
    check_class_targets(log_probabilities, targets)
    return float(-log_probabilities.double().gather(1, targets[:, None].long()).mean())
