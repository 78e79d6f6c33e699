"""The evaluation view of files that are cropped already: a centre crop and nothing before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision.transforms.v2.functional as transforms
from PIL import Image

from synco_hub.data.evaluation_transform import RESIZE_OVER_CROP, EvaluationTransform


class CentreCropTransform(EvaluationTransform):
    """Centre crop without a resize, scaling to [0, 1], normalisation.

    Args:
        like: The transform of a model, whose size of the crop, mean and standard deviation are taken.

    Source: evaluation of ImageNet-C, whose files are 224 x 224 crops: a second resize would show other pixels.
    """

    def __init__(self, like: EvaluationTransform) -> None:
        super().__init__(like.image_size, like.image_size, like.interpolation, like.mean, like.std)

    def __call__(
        self, image: Image.Image, after_crop: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Make the view.

        Args:
            image: RGB.
            after_crop: What is done to the crop, values in [0, 1], before the normalisation.

        Returns:
            Shape: (3, image_size, image_size), float32.

        Raises:
            ValueError: If the image is smaller than the crop, or so much larger that the crop is a detail.
        """
        size = self.image_size
        if min(image.size) < size or min(image.size) > size * RESIZE_OVER_CROP:
            raise ValueError(
                f"an image of {image.width} x {image.height} pixels for a model of {size}: files of ImageNet-C are "
                "cropped already and are not resized; take a model of their size (224), or --on-the-fly"
            )
        pixels = transforms.pil_to_tensor(image)
        top, left = ((side - size) // 2 for side in pixels.shape[-2:])
        pixels = transforms.crop(pixels, top, left, size, size)
        values = transforms.to_dtype(pixels, torch.float32, scale=True)
        if after_crop is not None:
            values = after_crop(values)
        view: torch.Tensor = transforms.normalize(values, list(self.mean), list(self.std))
        return view

    def __repr__(self) -> str:
        return f"centre crop {self.image_size} only"
