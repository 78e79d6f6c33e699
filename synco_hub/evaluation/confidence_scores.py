"""How sure a classifier is that it knows an image (maximum softmax, energy, nearness), and how well that separates.

Every score is a confidence: the higher, the more in-distribution. All are in double precision, because rounded scores
tie, and ties decide a false positive rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from synco_hub.metrics import area_under_roc, average_precision, fpr_at_recall

_CHANCE = 95.0


def maximum_softmax_log_odds(logits: Tensor) -> Tensor:
    """Log odds of the largest softmax probability, log p − log(1 − p).

    They order images as the probability does and never round off, while the probability itself is exactly 1 from a gap
    of 12 between logits in bfloat16, 14 in half precision and 22 in single precision.

    Args:
        logits: Of two classes or more. Shape: (images, num_classes).

    Returns:
        Shape: (images,).

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

    Source: Sun et al., "Out-of-distribution detection with deep nearest neighbors" (2022).
    """
    check_neighbour(k, len(bank))
    unit = F.normalize(_finite(features, "features"), dim=1)
    known = F.normalize(_finite(bank, "features of known images"), dim=1)
    rows = [(part @ known.T).topk(k, dim=1).values[:, -1] for part in unit.split(1024)]
    return torch.cat(rows) if rows else unit.new_zeros(0)


def check_neighbour(k: int, known: int) -> None:
    """Check that there is a k-th neighbour."""
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


def detection_metrics(name: str, known: Tensor, unknown: Tensor) -> dict[str, float]:
    """Metrics of one score in percent.

    Args:
        name: Ends the metrics' names.
        known: Confidence for in-distribution images. Shape: (known,).
        unknown: Confidence for out-of-distribution images. Shape: (unknown,).
    """
    for side, scores in (("in-distribution", known), ("out-of-distribution", unknown)):
        if len(scores) == 0:
            raise ValueError(f"there is no {side} image: detection needs both kinds")
    confidence = torch.cat([known, unknown]).double()
    is_known = torch.cat([torch.ones(len(known)), torch.zeros(len(unknown))])
    return {
        f"fpr95_{name}": 100.0 * fpr_at_recall(-confidence, 1 - is_known),
        f"auroc_{name}": 100.0 * area_under_roc(-confidence, 1 - is_known),
        f"aupr_{name}": 100.0 * average_precision(-confidence, 1 - is_known),
        f"fpr95_known_positive_{name}": 100.0 * fpr_at_recall(confidence, is_known),
        f"aupr_known_positive_{name}": 100.0 * average_precision(confidence, is_known),
        f"tied_share_{name}": 100.0 * tied_share(confidence),
    }


def explanation(name: str, known: Tensor, unknown: Tensor) -> str | None:
    """Why FPR95 is above 95 %, where chance is; None if it is not.

    Args:
        name: Of the score.
        known: Confidence for in-distribution images. Shape: (known,).
        unknown: Confidence for out-of-distribution images. Shape: (unknown,).
    """
    rate = detection_metrics(name, known, unknown)[f"fpr95_{name}"]
    if rate <= _CHANCE:
        return None
    most = torch.cat([known, unknown]).max()
    at_top = 100.0 * float((unknown == most).double().mean())
    if bool((torch.cat([known, unknown]) == most).all()):
        why = "every image has the same score, so one threshold calls all of them unknown"
    elif at_top >= 5:
        why = (
            f"{at_top:.1f} % of the unknown images are tied at the highest confidence: the threshold that finds 95 % "
            "of the unknown ones then takes every known one"
        )
    else:
        area = area_under_roc(
            -torch.cat([known, unknown]), torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))])
        )
        why = (
            "the most confident unknown images are more confident than almost every known one"
            if area >= 0.5
            else "unknown images are more confident than known ones, as they also are when a sign is turned"
        )
    return f"{name}: FPR95 of {rate:.1f} % is worse than chance ({_CHANCE:.0f} %): {why}"


def _finite(values: Tensor, what: str) -> Tensor:
    wide = values.double()
    broken: Sequence[int] = (~torch.isfinite(wide).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"the {what} of {len(broken)} of {len(values)} images are NaN or infinite, first at row {broken[0]}: no "
            "threshold orders them; check the weights, or compute in float32"
        )
    return wide
