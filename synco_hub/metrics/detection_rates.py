"""How well one score tells positives from negatives: area under the ROC curve, false positives at a recall.

For out-of-distribution detection after Hendrycks et al. the positives are the out-of-distribution images and the score
is minus the confidence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synco_hub.metrics.average_precision import OperatingPoints, operating_points


def area_under_roc(scores: Tensor, targets: Tensor) -> float:
    """Probability that a positive scores above a negative, equal scores counting one half.

    Args:
        scores: The higher, the more positive. Shape: (images,).
        targets: 1 positive, 0 negative, -1 left out. Shape: (images,).

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: If shapes do not fit, a score is NaN, or there is no positive or no negative.
    """
    found, false = _both_kinds(scores, targets)
    recall = torch.cat([found.new_zeros(1), found / found[-1]])
    rate = torch.cat([false.new_zeros(1), false / false[-1]])
    return float(torch.trapezoid(recall, rate))


def fpr_at_recall(scores: Tensor, targets: Tensor, recall: float = 0.95) -> float:
    """Share of the negatives called positive at the threshold whose recall is nearest to the wanted one.

    Among equally near thresholds the lower one is taken, and beyond full recall none. Distances are compared as the
    published code rounds them (recall - 0.95 in double precision), so that its numbers are met also where two recalls
    lie exactly around the wanted one: of 0.9 and 1.0 it takes 0.9.

    Args:
        scores: The higher, the more positive. Shape: (images,).
        targets: 1 positive, 0 negative, -1 left out. Shape: (images,).
        recall: Wanted recall, in (0, 1].

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: If shapes do not fit, a score is NaN, there is no positive or no negative, or the recall is out of
            range.

    Source: FPR95 of Hendrycks et al., "Natural adversarial examples" (2021).
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall={recall} is not in (0, 1]: FPR95 takes 0.95")
    found, false = _both_kinds(scores, targets)
    up_to_full = int((found < found[-1]).sum()) + 1
    distance = (found[:up_to_full] / found[-1] - recall).abs()
    nearest = int((distance == distance.min()).nonzero()[-1])
    return float(false[nearest] / false[-1])


def _both_kinds(scores: Tensor, targets: Tensor) -> OperatingPoints:
    points = operating_points(scores, targets)
    if float(points.false_positives[-1]) == 0:
        raise ValueError(f"none of {len(targets)} targets is negative: a false positive rate needs one")
    return points
