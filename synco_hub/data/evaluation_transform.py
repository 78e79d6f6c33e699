"""One undistorted view of an image: how every evaluation of frozen features sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision.transforms.v2.functional as transforms
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode

from synco_hub.data.views.parameters import TwoViewParameters

RESIZE_OVER_CROP = 256 / 224
_PILLOW_RESAMPLING = {
    0: InterpolationMode.NEAREST,
    1: InterpolationMode.LANCZOS,
    2: InterpolationMode.BILINEAR,
    3: InterpolationMode.BICUBIC,
    4: InterpolationMode.BOX,
    5: InterpolationMode.HAMMING,
}


class EvaluationTransform:
    """Resize, centre crop, scaling to [0, 1], normalisation.

    The arithmetic is that of the torchvision backend of transformers' `ViTImageProcessor`: an antialiased resize of
    8-bit values and the same place of the crop. Its slower Pillow backend rounds the resize differently, by one grey
    level in a few pixels.

    Args:
        image_size: Height and width of the crop in pixels.
        resize_size: Shorter side after the resize, or exact height and width; None takes 256 / 224 of the image size
            for the shorter side.
        interpolation: How to resize.
        mean: Per channel, for values in [0, 1].
        std: Per channel, for values in [0, 1].

    Raises:
        ValueError: If a size is not positive or the crop is larger than the resized image.
    """

    def __init__(
        self,
        image_size: int,
        resize_size: int | tuple[int, int] | None = None,
        interpolation: InterpolationMode = InterpolationMode.BICUBIC,
        mean: tuple[float, ...] = TwoViewParameters.mean,
        std: tuple[float, ...] = TwoViewParameters.std,
    ) -> None:
        resize_size = round(image_size * RESIZE_OVER_CROP) if resize_size is None else resize_size
        self.resize_size = [resize_size] if isinstance(resize_size, int) else list(resize_size)
        if not 1 <= image_size <= min(self.resize_size):
            raise ValueError(
                f"image size {image_size} after a resize to {resize_size}: the crop needs at least one pixel and no "
                "more than the resized image has; give the usual 224 and 256."
            )
        self.image_size = image_size
        self.interpolation = interpolation
        self.mean = tuple(mean)
        self.std = tuple(std)

    @classmethod
    def from_image_processor(cls, processor: Any) -> EvaluationTransform:
        """Takes the numbers of a model's image processor.

        Args:
            processor: An image processor of transformers with a resize, a square centre crop or none, the scale 1/255
                and a normalisation.

        Returns:
            The same preprocessing, image by image, for worker processes.

        Raises:
            ValueError: If the processor does something else.
        """
        name = type(processor).__name__
        if not processor.do_resize or not processor.do_rescale or not processor.do_normalize:
            raise ValueError(f"{name}: resize, rescale and normalisation must all be on; switch them on.")
        if not math.isclose(processor.rescale_factor, 1 / 255):
            raise ValueError(f"{name}: rescale factor {processor.rescale_factor}; only 1/255 is known, set that.")
        edge, exact = _side(processor.size, "shortest_edge"), _height_and_width(processor.size)
        if edge is None and exact is None:
            raise ValueError(f"{name}: a resize to {processor.size} is not known; set size to a shortest edge.")
        crop = _height_and_width(processor.crop_size) if getattr(processor, "do_center_crop", False) else exact
        if crop is None or crop[0] != crop[1]:
            raise ValueError(f"{name}: its output is not a square; set do_center_crop and a square crop_size.")
        return cls(
            image_size=crop[0],
            resize_size=edge if edge is not None else exact,
            interpolation=_PILLOW_RESAMPLING[int(processor.resample)],
            mean=tuple(processor.image_mean),
            std=tuple(processor.image_std),
        )

    def __call__(
        self, image: Image.Image, after_crop: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Makes the view.

        Args:
            image: RGB image of any size.
            after_crop: What is done to the crop, values in [0, 1], before the normalisation.

        Returns:
            Shape: (3, image_size, image_size), float32.
        """
        pixels = self._resized(image)
        # Rounded down as transformers does; torchvision's own centre crop rounds half a pixel to the even side.
        top, left = ((side - self.image_size) // 2 for side in pixels.shape[-2:])
        pixels = transforms.crop(pixels, top, left, self.image_size, self.image_size)
        values = transforms.to_dtype(pixels, torch.float32, scale=True)
        if after_crop is not None:
            values = after_crop(values)
        view: torch.Tensor = transforms.normalize(values, list(self.mean), list(self.std))
        return view

    def _resized(self, image: Image.Image) -> torch.Tensor:
        """What is cropped. Shape: (3, height, width), 8-bit."""
        return transforms.resize(transforms.pil_to_tensor(image), self.resize_size, self.interpolation, antialias=True)

    def __repr__(self) -> str:
        resized = "x".join(map(str, self.resize_size))
        return f"resize {resized} {self.interpolation.value}, centre crop {self.image_size}"


def _side(size: Any, key: str) -> int | None:
    """Reads a side from a plain mapping or from transformers' SizeDict; None where it is not set."""
    value = size.get(key) if isinstance(size, Mapping) else getattr(size, key, None)
    return None if value is None else int(value)


def _height_and_width(size: Any) -> tuple[int, int] | None:
    height, width = _side(size, "height"), _side(size, "width")
    return None if height is None or width is None else (height, width)


class CentreCropTransform(EvaluationTransform):
    """Centre crop without a resize, scaling to [0, 1], normalisation.

    Source: evaluation of ImageNet-C, whose files are 224 x 224 crops: a second resize would show other pixels.
    """

    def __init__(self, like: EvaluationTransform) -> None:
        super().__init__(like.image_size, like.image_size, like.interpolation, like.mean, like.std)

    def _resized(self, image: Image.Image) -> torch.Tensor:
        """The image itself, unless it is smaller than the crop, or so much larger that the crop is a detail."""
        size = self.image_size
        if min(image.size) < size or min(image.size) > size * RESIZE_OVER_CROP:
            raise ValueError(
                f"an image of {image.width} x {image.height} pixels for a model of {size}: files of ImageNet-C are "
                "cropped already and are not resized; take a model of their size (224), or --on-the-fly"
            )
        return transforms.pil_to_tensor(image)

    def __repr__(self) -> str:
        return f"centre crop {self.image_size} only"
