"""How sure a classifier is that it knows an image: maximum softmax, energy, nearness to known features.

Every score is a confidence: the higher, the more in-distribution. All are in double precision, because rounded scores
tie, and ties decide a false positive rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def maximum_softmax_log_odds(logits: Tensor) -> Tensor:
    """Log odds of the largest softmax probability, log p − log(1 − p).

    They order images as the probability does and never round off, while the probability itself is exactly 1 from a gap
    of 12 between logits in bfloat16, 14 in half precision and 22 in single precision.

    Args:
        logits: Of two classes or more. Shape: (images, num_classes).

    Returns:
        Shape: (images,).

    Raises:
        ValueError: If a logit is NaN or infinite, or there is one class only.

    Source: Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples" (2017).
    """
    if logits.shape[1] < 2:
        raise ValueError("a classifier of one class is always sure: maximum softmax needs two classes or more")
    ordered = _finite(logits, "logits").sort(dim=1, descending=True).values
    return ordered[:, 0] - torch.logsumexp(ordered[:, 1:], dim=1)


def negative_energy(logits: Tensor) -> Tensor:
    """The energy of temperature 1 with its sign turned, log Σ exp(logit).

    Args:
        logits: Shape: (images, num_classes).

    Returns:
        Shape: (images,).

    Raises:
        ValueError: If a logit is NaN or infinite.

    Source: Liu et al., "Energy-based out-of-distribution detection" (2020).
    """
    return torch.logsumexp(_finite(logits, "logits"), dim=1)


def neighbour_similarity(features: Tensor, bank: Tensor, k: int) -> Tensor:
    """Cosine similarity to the k-th nearest feature of known images: its distance is √(2 − 2 similarity).

    Args:
        features: Shape: (images, dim).
        bank: Features of known images that are not measured themselves. Shape: (known, dim).
        k: Which neighbour.

    Returns:
        Shape: (images,).

    Raises:
        ValueError: If there are fewer known images than k, or a feature is NaN, infinite or zero.

    Source: Sun et al., "Out-of-distribution detection with deep nearest neighbors" (2022).
    """
    check_neighbour(k, len(bank))
    unit = F.normalize(_finite(features, "features"), dim=1)
    known = F.normalize(_finite(bank, "features of known images"), dim=1)
    rows = [(part @ known.T).topk(k, dim=1).values[:, -1] for part in unit.split(1024)]
    return torch.cat(rows) if rows else unit.new_zeros(0)


def check_neighbour(k: int, known: int) -> None:
    """Check that there is a k-th neighbour.

    Raises:
        ValueError: If k is below 1 or above the number of known images.
    """
    if not 1 <= k <= known:
        raise ValueError(f"neighbour {k} of {known} known images: give k from 1 to their number")


def tied_share(scores: Tensor) -> float:
    """Share of the images whose score another image has too.

    Args:
        scores: Shape: (images,).
    """
    if len(scores) == 0:
        return 0.0
    counts = torch.unique(scores, return_counts=True)[1]
    return float(counts[counts > 1].sum()) / len(scores)


def _finite(values: Tensor, what: str) -> Tensor:
    wide = values.double()
    broken: Sequence[int] = (~torch.isfinite(wide).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"the {what} of {len(broken)} of {len(values)} images are NaN or infinite, first at row {broken[0]}: no "
            "threshold orders them; check the weights, or compute in float32"
        )
    return wide
