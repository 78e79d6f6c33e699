"""CorLoc: the share of images whose one predicted box lies well on any of the annotated ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IOU_THRESHOLD = 0.5


def correct_localization(boxes: Tensor, targets: Sequence[Tensor], threshold: float = IOU_THRESHOLD) -> float:
    """Share of images whose box has at least an intersection over union with any annotated box.

    Args:
        boxes: One predicted box an image: left, top, right, bottom in pixels, right and bottom excluded.
            Shape: (images, 4).
        targets: Annotated boxes of each image. Shape of each: (boxes, 4); an image without a box is never correct.
        threshold: Least intersection over union, in (0, 1]; CorLoc's is 0.5.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: If counts or shapes do not fit, there is no image, or the threshold is out of range.

    Source: Deselaers et al. (2010); LOST (Siméoni et al., 2021) and TokenCut report it.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) != len(targets) or len(boxes) == 0:
        raise ValueError(
            f"boxes {tuple(boxes.shape)} and {len(targets)} images of annotated boxes do not fit: "
            "boxes are (images, 4), at least one image"
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold} is not in (0, 1]: CorLoc's is 0.5")
    correct = [
        bool((box_overlap(box[None], annotated) >= threshold).any())
        for box, annotated in zip(boxes, targets, strict=True)
    ]
    return sum(correct) / len(correct)


def box_overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every box with every other.

    Args:
        boxes: Left, top, right, bottom. Shape: (count, 4).
        others: The same. Shape: (others, 4).

    Returns:
        float64 in [0, 1]; 0 for boxes without area. Shape: (count, others).

    Raises:
        ValueError: If a box is not four numbers.
    """
    if boxes.shape[-1:] != (4,) or others.shape[-1:] != (4,):
        raise ValueError(f"boxes {tuple(boxes.shape)} and {tuple(others.shape)}: a box is left, top, right, bottom")
    ours, theirs = boxes.double()[:, None], others.double()[None]
    sides = torch.minimum(ours[..., 2:], theirs[..., 2:]) - torch.maximum(ours[..., :2], theirs[..., :2])
    intersection = sides.clamp_min(0).prod(dim=-1)
    areas = [(each[..., 2:] - each[..., :2]).clamp_min(0).prod(dim=-1) for each in (ours, theirs)]
    union = areas[0] + areas[1] - intersection
    return torch.where(union > 0, intersection / union.clamp_min(1e-300), 0.0)
