"""Region similarity J of video object segmentation, and the three numbers that sum up a sequence of frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RECALL_THRESHOLD = 0.5
_QUARTERS = 4


@dataclass(frozen=True)
class SequenceStatistics:
    """What DAVIS reports of a measure over the frames of one object.

    Attributes:
        mean: Mean over frames.
        recall: Share of frames above 0.5.
        decay: Mean of the first quarter of the frames less that of the last.
    """

    mean: float
    recall: float
    decay: float


def region_similarity(masks: Tensor, targets: Tensor, void: Tensor | None = None) -> Tensor:
    """Intersection over union of binary masks; 1 where both are empty.

    Args:
        masks: Predicted, boolean. Shape: (..., height, width).
        targets: Annotated, boolean. Shape: that of masks.
        void: True on pixels that do not count, such as DAVIS's index 255. Shape: broadcasts to that of masks.

    Returns:
        float64 in [0, 1]. Shape: (...).

    Raises:
        ValueError: If shapes differ or masks are not boolean.

    Source: Perazzi et al., "A benchmark dataset and evaluation methodology for video object segmentation" (2016),
    section 5; the convention for empty masks is that of the public evaluation code.
    """
    check_masks(masks, targets)
    if void is not None:
        masks, targets = masks & ~void, targets & ~void
    intersection = (masks & targets).sum(dim=(-2, -1)).double()
    union = (masks | targets).sum(dim=(-2, -1)).double()
    return torch.where(union == 0, 1.0, intersection / union.clamp_min(1))


def sequence_statistics(values: Tensor) -> SequenceStatistics:
    """Mean, recall and decay over the frames of one object.

    Quarters share their border frames, and are cut at the rounded positions of the public evaluation code.

    Args:
        values: J or F of each frame, in order. Shape: (frames,).

    Returns:
        The three numbers, as fractions.

    Raises:
        ValueError: If there is no frame.
    """
    count = len(values)
    if values.ndim != 1 or count == 0:
        raise ValueError(f"values of shape {tuple(values.shape)} are no sequence of frames: give (frames,), not empty")
    values = values.double()
    # The hair moves exact halves up, which `round` would take to the even side.
    cuts = [round(1 + quarter * (count - 1) / _QUARTERS + 1e-10) - 1 for quarter in range(_QUARTERS + 1)]
    first, last = values[cuts[0] : cuts[1] + 1], values[cuts[-2] : cuts[-1] + 1]
    recall = float((values > RECALL_THRESHOLD).double().mean())
    return SequenceStatistics(float(values.mean()), recall, float(first.mean() - last.mean()))


def check_masks(masks: Tensor, targets: Tensor) -> None:
    """Check that two stacks of masks can be compared.

    Raises:
        ValueError: If shapes differ, or one is not boolean.
    """
    if masks.shape != targets.shape or masks.ndim < 2:
        raise ValueError(
            f"masks {tuple(masks.shape)} and targets {tuple(targets.shape)} do not fit: both are (..., height, width)"
        )
    if masks.dtype != torch.bool or targets.dtype != torch.bool:
        raise ValueError(f"masks are {masks.dtype}, targets {targets.dtype}: both must be boolean, compare with ==")
