"""Evaluation images that are changed between the crop and the normalisation, each by its place in the data set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from synco_hub.data.corruptions.corruptions import check_cell, corrupted, corruption_key
from synco_hub.data.evaluation_dataset import EvaluationDataset, EvaluationItem
from synco_hub.data.evaluation_transform import EvaluationTransform
from synco_hub.data.image_dataset import ImageDataset

PixelChange = Callable[[Tensor, int], Tensor]


class ChangedDataset(EvaluationDataset):
    """Images after resize and crop, changed while their values are in [0, 1], then normalised.

    Args:
        images: The images.
        transform: The evaluation transform.
        change: From the pixels (3, height, width) in [0, 1] and the position of an image to its changed pixels.
    """

    def __init__(self, images: ImageDataset, transform: EvaluationTransform, change: PixelChange) -> None:
        super().__init__(images, pixel_transform(transform))
        self.normalised = transform
        self.change = change

    def __getitem__(self, index: int) -> EvaluationItem:
        item = super().__getitem__(index)
        if item["bad_index"] < 0:
            pixels = self.change(item["pixel_values"], index)
            item["pixel_values"] = transforms.normalize(pixels, list(self.normalised.mean), list(self.normalised.std))
        return item


class Corruption:
    """One corruption at one severity, as a change of pixels.

    Args:
        name: One of `BENCHMARK_CORRUPTIONS`.
        severity: 1 to 5.
        seed: Of the whole measurement.

    Raises:
        ValueError: If name or severity is unknown.
    """

    def __init__(self, name: str, severity: int, seed: int) -> None:
        check_cell(name, severity)
        self.name, self.severity, self.seed = name, severity, seed

    def __call__(self, pixels: Tensor, index: int) -> Tensor:
        """Corrupt the pixels (3, height, width) of the image at a position; 8 bits in between, as in ImageNet-C."""
        image = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        key = corruption_key(self.seed, index, self.name, self.severity)
        changed = corrupted(np.ascontiguousarray(image), self.name, self.severity, key)
        return torch.from_numpy(np.array(changed)).permute(2, 0, 1).float() / 255


def pixel_transform(transform: EvaluationTransform) -> EvaluationTransform:
    """The same resize and crop, values left in [0, 1]."""
    size, channels = transform.resize_size, len(transform.mean)
    return EvaluationTransform(
        transform.image_size,
        size[0] if len(size) == 1 else (size[0], size[1]),
        transform.interpolation,
        (0.0,) * channels,
        (1.0,) * channels,
    )
