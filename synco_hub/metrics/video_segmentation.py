"""The measures of DAVIS for video object segmentation.

Region similarity J says how far two masks overlap, contour accuracy F whether their outlines lie within a few pixels
of each other, and three numbers sum up either over a sequence of frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BOUNDARY_TOLERANCE = 0.008
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
    """Check that two stacks of masks can be compared."""
    if masks.shape != targets.shape or masks.ndim < 2:
        raise ValueError(
            f"masks {tuple(masks.shape)} and targets {tuple(targets.shape)} do not fit: both are (..., height, width)"
        )
    if masks.dtype != torch.bool or targets.dtype != torch.bool:
        raise ValueError(f"masks are {masks.dtype}, targets {targets.dtype}: both must be boolean, compare with ==")


def contour_accuracy(
    masks: Tensor, targets: Tensor, void: Tensor | None = None, tolerance: float = BOUNDARY_TOLERANCE
) -> Tensor:
    """Harmonic mean of the precision and the recall of outlines.

    An outline's pixel is found if the other outline has a pixel within a disk around it. Where one outline is empty
    F is 0, where both are it is 1.

    Args:
        masks: Predicted, boolean. Shape: (..., height, width).
        targets: Annotated, boolean. Shape: that of masks.
        void: True on pixels that belong to no mask. Shape: broadcasts to that of masks.
        tolerance: Radius of the disk: below 1 a share of the image's diagonal, rounded up to pixels; from 1 on in
            pixels.

    Returns:
        float64 in [0, 1]. Shape: (...).

    Raises:
        ValueError: If shapes differ, masks are not boolean, or the tolerance is negative.

    Source: Perazzi et al. (2016), section 5, with its morphological approximation of the matching of outlines.
    """
    check_masks(masks, targets)
    if tolerance < 0:
        raise ValueError(f"tolerance={tolerance} is negative: DAVIS's is 0.008 of the diagonal")
    if void is not None:
        masks, targets = masks & ~void, targets & ~void
    radius = math.ceil(tolerance * math.hypot(*masks.shape[-2:]) if tolerance < 1 else tolerance)
    outline, target_outline = _cut_to_content(mask_outline(masks), mask_outline(targets))
    precision = _found_share(outline, dilate(target_outline, radius))
    recall = _found_share(target_outline, dilate(outline, radius))
    total = precision + recall
    return torch.where(total > 0, 2 * precision * recall / total.clamp_min(1e-300), 0.0)


def mask_outline(masks: Tensor) -> Tensor:
    """Pixels whose right, lower or lower right neighbour is on the other side.

    In the last row and column, the one neighbour that is inside the image decides.

    Args:
        masks: Boolean. Shape: (..., height, width).

    Returns:
        Boolean. Shape: that of masks.

    Source: the convention of Martin et al.'s boundary benchmark, which DAVIS uses.
    """
    outline = torch.zeros_like(masks)
    outline[..., :, :-1] |= masks[..., :, :-1] ^ masks[..., :, 1:]
    outline[..., :-1, :] |= masks[..., :-1, :] ^ masks[..., 1:, :]
    outline[..., :-1, :-1] |= masks[..., :-1, :-1] ^ masks[..., 1:, 1:]
    return outline


def dilate(masks: Tensor, radius: int) -> Tensor:
    """Every pixel that has a pixel of the mask within a radius.

    Args:
        masks: Boolean. Shape: (..., height, width).
        radius: Of the disk dx² + dy² <= radius², in pixels; 0 changes nothing.

    Returns:
        Boolean. Shape: that of masks.
    """
    height, width = masks.shape[-2:]
    # How many pixels of the mask a row has to the left of each position: differences count those in a window.
    counts = F.pad(F.pad(masks, (radius, radius)).cumsum(dim=-1, dtype=torch.int32), (1, 0))
    grown = torch.zeros_like(masks)
    for offset in range(min(radius, height - 1) + 1):
        reach = math.isqrt(radius**2 - offset**2)
        right, left = radius + reach + 1, radius - reach
        row = counts[..., right : right + width] > counts[..., left : left + width]
        grown[..., offset:, :] |= row[..., : height - offset, :]
        grown[..., : height - offset, :] |= row[..., offset:, :]
    return grown


def _cut_to_content(outline: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the rows and columns in which neither has a pixel; no distance changes, and most work goes."""
    content = (outline | other).flatten(0, -3).any(dim=0) if outline.ndim > 2 else outline | other
    rows, columns = content.any(dim=1).nonzero().flatten(), content.any(dim=0).nonzero().flatten()
    if len(rows) == 0:
        return outline[..., :1, :1], other[..., :1, :1]
    box = (..., slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    return outline[box], other[box]


def _found_share(outline: Tensor, near_other: Tensor) -> Tensor:
    """Share of an outline's pixels that lie near the other outline; 1 for an empty one, which claims nothing wrong."""
    length = outline.sum(dim=(-2, -1)).double()
    found = (outline & near_other).sum(dim=(-2, -1)).double()
    return torch.where(length > 0, found / length.clamp_min(1), 1.0)
