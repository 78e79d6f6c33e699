"""FPR95, AUROC and AUPR of one confidence score, in both conventions, with a word on a suspicious number."""

from __future__ import annotations

import torch
from torch import Tensor

from synco_hub.evaluation.detection.confidence_scores import tied_share
from synco_hub.metrics import area_under_roc, average_precision, fpr_at_recall

CHANCE = 95.0


def detection_metrics(name: str, known: Tensor, unknown: Tensor) -> dict[str, float]:
    """Metrics of one score in percent.

    Args:
        name: Ends the metrics' names.
        known: Confidence for in-distribution images. Shape: (known,).
        unknown: Confidence for out-of-distribution images. Shape: (unknown,).

    Returns:
        ``fpr95``, ``auroc``, ``aupr`` after Hendrycks et al.: out-of-distribution images are the positives, their
        score is minus the confidence. ``fpr95_known_positive`` and ``aupr_known_positive``: the known images are the
        positives (AUROC is the same). ``tied_share``: images that share their score with another.

    Raises:
        ValueError: If there are no images on one side, or a score is NaN.
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
    if rate <= CHANCE:
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
    return f"{name}: FPR95 of {rate:.1f} % is worse than chance ({CHANCE:.0f} %): {why}"
