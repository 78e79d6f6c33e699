"""Intersection over union of classes in segmentation, from one confusion matrix of a whole test set."""

from __future__ import annotations

import torch
from torch import Tensor


def segmentation_confusion(predictions: Tensor, targets: Tensor, num_classes: int, void: int = 255) -> Tensor:
    """Count pixels by their class and the class that was predicted; matrices of several images add up.

    Args:
        predictions: Class of each pixel. Shape: any.
        targets: True class of each pixel, `void` where there is none. Shape: as the predictions.
        num_classes: Classes are 0 to this, excluded.
        void: Pixels with this target do not count.

    Returns:
        int64, true class by row. Shape: (num_classes, num_classes).

    Raises:
        ValueError: If shapes differ, or a class is out of range.
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} differ in shape: resize the "
            "predictions to the masks first"
        )
    kept = targets != void
    predicted, true = predictions[kept].long(), targets[kept].long()
    for name, values in (("predictions", predicted), ("targets", true)):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(
                f"{name} from {int(values.min())} to {int(values.max())}: classes are 0 to {num_classes - 1}"
            )
    return torch.bincount(true * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(confusion: Tensor) -> Tensor:
    """Intersection over union of each class; NaN where neither masks nor predictions have it.

    Args:
        confusion: Of :func:`segmentation_confusion`. Shape: (classes, classes).

    Returns:
        float64 in [0, 1]. Shape: (classes,).
    """
    intersection = confusion.diagonal().double()
    union = confusion.sum(dim=0) + confusion.sum(dim=1) - confusion.diagonal()
    return intersection / union  # 0 / 0 is NaN


def mean_iou(confusion: Tensor) -> float:
    """Mean of :func:`class_iou` over the classes that masks or predictions have.

    Args:
        confusion: Of :func:`segmentation_confusion`. Shape: (classes, classes).

    Returns:
        In [0, 1]; NaN if nothing was counted.
    """
    return float(class_iou(confusion).nanmean())
