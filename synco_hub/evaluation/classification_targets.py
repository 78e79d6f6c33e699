"""What each image of a data set is to be classified as: one class, or any number of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from synco_hub.data import ImageDataset


@dataclass(frozen=True)
class ClassificationTargets:
    """Targets of all images of a split, in its order.

    Attributes:
        values: Class indices, int64 (num_images,); or multi-hot, float32 (num_images, num_classes): 1 present,
            0 absent, -1 neither (VOC's "difficult").
        class_names: One name for each class.
    """

    values: Tensor
    class_names: tuple[str, ...]

    @property
    def multi_label(self) -> bool:
        """Whether an image can have several classes."""
        return self.values.ndim == 2

    @property
    def primary_metric(self) -> str:
        """The metric that learning rates and epochs are compared by."""
        return "map_11_point" if self.multi_label else "top1"


def classification_targets(images: ImageDataset, purpose: str) -> ClassificationTargets:
    """Read the targets of a split; a data set with an attribute ``multi_hot`` has any number of classes an image.

    Args:
        images: The split.
        purpose: What needs the targets, for error messages: "linear probing".

    Raises:
        ValueError: If the split is empty, an image has no class, or the multi-hot rows do not fit.
    """
    if len(images) == 0:
        raise ValueError(
            f"the split {images.description.split!r} of {images.description.name} is empty: {purpose} needs images; "
            "check the folder or the split"
        )
    names = tuple(images.class_names)
    multi_hot: Any = getattr(images, "multi_hot", None)
    if multi_hot is None:
        images.require_labels(purpose)
        return ClassificationTargets(torch.as_tensor(images.labels, dtype=torch.int64), names)
    values = torch.as_tensor(multi_hot, dtype=torch.float32)
    if values.shape != (len(images), len(names)):
        raise ValueError(
            f"multi_hot of {images.description.name} has the shape {tuple(values.shape)}: give one row for each of "
            f"{len(images)} images and one column for each of {len(names)} classes"
        )
    return ClassificationTargets(values, names)


def check_same_classes(head: tuple[str, ...], data: tuple[str, ...], whose: str = "head") -> None:
    """Check that a head was made for the classes of a data set.

    Args:
        head: Class names of the head, or of the training split, in label order.
        data: Class names of the data set.
        whose: What the first names belong to, for the error message.

    Raises:
        ValueError: If their numbers differ, or a name does, where both sides have real names.
    """
    if len(head) != len(data):
        raise ValueError(
            f"the {whose} has {len(head)} classes, the data set {len(data)}: their outputs cannot be compared; give "
            "the data set it was trained on, or train a new head (`synco-hub linear-probe`)"
        )
    if all(name == f"LABEL_{index}" for index, name in enumerate(head)):
        return  # a head that was saved without names
    for label, (ours, theirs) in enumerate(zip(head, data, strict=True)):
        if ours != theirs:
            raise ValueError(
                f"class {label} is {ours!r} in the {whose} and {theirs!r} in the data set: labels would not mean the "
                "same; give the data set it was trained on"
            )
