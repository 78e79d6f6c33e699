"""Corruption error of ImageNet-C: the error under a corruption over that of AlexNet, summed over the severities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from synco_hub.metrics.accuracy import top_k_accuracy

# Mean top-1 error of AlexNet over the five severities. Source: Hendrycks and Dietterich, "Benchmarking neural network
# robustness to common corruptions and perturbations" (2019), the benchmark's published evaluation.
ALEXNET_ERRORS: dict[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def corruption_error(scores: Tensor, targets: Tensor, corruption: str) -> float:
    """Top-1 error under one corruption relative to AlexNet's.

    Args:
        scores: Score of each class at each severity. Shape: (severities, batch, num_classes).
        targets: Class indices. Shape: (batch,).
        corruption: A key of `ALEXNET_ERRORS`.

    Returns:
        The mean error over the severities divided by AlexNet's; 1 is as bad as AlexNet.

    Raises:
        ValueError: If the corruption is unknown or shapes do not fit.
    """
    if scores.ndim != 3:
        raise ValueError(f"scores {tuple(scores.shape)}: give (severities, batch, num_classes), usually 5 severities")
    errors = [1.0 - top_k_accuracy(severity, targets) for severity in scores]
    return sum(errors) / len(errors) / _reference(corruption)


def mean_corruption_error(errors: Mapping[str, Tensor]) -> float:
    """mCE: the mean over the corruptions of their errors relative to AlexNet's.

    Args:
        errors: Top-1 error, a fraction, for each severity of each corruption. Shape of each: (severities,).

    Raises:
        ValueError: If a corruption is unknown, or one of the fifteen is missing.
    """
    ratios = [float(torch.as_tensor(values).double().mean()) / _reference(name) for name, values in errors.items()]
    missing = sorted(set(ALEXNET_ERRORS) - set(errors))
    if missing:
        raise ValueError(f"mCE is the mean over {len(ALEXNET_ERRORS)} corruptions, {', '.join(missing)} missing")
    return sum(ratios) / len(ratios)


def _reference(corruption: str) -> float:
    if corruption not in ALEXNET_ERRORS:
        raise ValueError(f"corruption {corruption!r} is unknown: use one of {', '.join(ALEXNET_ERRORS)}")
    return ALEXNET_ERRORS[corruption]
