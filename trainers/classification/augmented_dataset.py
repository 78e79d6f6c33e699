"""Training images of probing and fine-tuning: a random resized crop and a flip, drawn per (seed, epoch, index)."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from synco_hub.data import (
    EvaluationTransform,
    ImageDataset,
    TwoViewParameters,
    UnreadableImageError,
)
from synco_hub.data.samplers import random_key
from synco_hub.data.views.draws import draw_view
from synco_hub.data.views.worker_views import crop_resized, distorted


class TrainingItem(TypedDict):
    """One augmented image.

    Keys: pixel_values (3, height, width), zero for an unreadable image; target, a class index or a multi-hot row;
    bad_index, -1 or the position of the image if it cannot be read and must not count.
    """

    pixel_values: Tensor
    target: Tensor
    bad_index: int


class CropAndFlip:
    """Random resized crop with scale (0.08, 1) and horizontal flip, resized and normalised as the model wants it.

    Args:
        evaluation: The model's evaluation transform: image size, mean and standard deviation are read from it.
    """

    def __init__(self, evaluation: EvaluationTransform) -> None:
        self.image_size = evaluation.image_size
        self.parameters = TwoViewParameters(
            color_jitter_probability=0.0,
            color_dropping_probability=0.0,
            gaussian_blur_probability=(0.0, 0.0),
            solarization_probability=(0.0, 0.0),
            mean=_triple(evaluation.mean),
            std=_triple(evaluation.std),
        )

    def __call__(self, pixels: npt.NDArray[np.uint8], seed_key: int) -> Tensor:
        """Make the view that belongs to a key.

        Args:
            pixels: RGB image. Shape: (height, width, 3).
            seed_key: `random_key(seed, epoch, index)`.

        Returns:
            Shape: (3, image_size, image_size).
        """
        height, width = pixels.shape[:2]
        draw = draw_view(self.parameters, 0, width, height, seed_key)
        return distorted(crop_resized(pixels, draw, self.image_size), draw, self.parameters)

    def __repr__(self) -> str:
        scale = self.parameters.crop_scale
        return f"random resized crop {self.image_size} scale {scale} bicubic, horizontal flip 0.5"


class AugmentedDataset(Dataset[TrainingItem]):
    """Map-style data set indexed by (epoch, index).

    An unreadable image gets no stand-in, whose label would be another one: it is marked, and does not count.

    Args:
        images: The images.
        targets: Class indices (num_images,) or multi-hot rows (num_images, num_classes).
        transform: Makes the view.
        seed: Another seed draws other views.
    """

    def __init__(self, images: ImageDataset, targets: Tensor, transform: CropAndFlip, seed: int = 0) -> None:
        self.images = images
        self.targets = targets
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> TrainingItem:
        epoch, index = key
        try:
            pixels = self.images.load_pixels(index)
        except UnreadableImageError:
            size = self.transform.image_size
            return TrainingItem(pixel_values=torch.zeros(3, size, size), target=self.targets[index], bad_index=index)
        view = self.transform(pixels, random_key(self.seed, epoch, index))
        return TrainingItem(pixel_values=view, target=self.targets[index], bad_index=-1)

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.images.name(index)


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    first, second, third = values
    return first, second, third
