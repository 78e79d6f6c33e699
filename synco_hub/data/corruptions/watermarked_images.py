"""ImageNet-W: the validation images of ImageNet with a watermark, drawn between the crop and the normalisation.

Source: Li et al., "A Whac-A-Mole Dilemma" (2023); their package `imagenet-w` draws it. Its code and font have other
licences than this package, so it is not a part of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from PIL import Image
from torch import Tensor

from synco_hub.data.image_dataset import ImageDataset, fingerprint


class WatermarkedImages(ImageDataset):
    """Images with a change that is made to the cropped view.

    Args:
        images: The clean images.

    Raises:
        ImportError: If the package that draws the watermark is not installed.
    """

    def __init__(self, images: ImageDataset) -> None:
        _package()
        about = images.description
        super().__init__(
            images.labels,
            images.class_names,
            replace(
                about,
                split_rule=f"{about.split_rule}; watermark of imagenet-w after the crop",
                fingerprint=fingerprint(about.fingerprint, "imagenet-w"),
            ),
        )
        self.images = images

    def load_image(self, index: int) -> Image.Image:
        """The clean image: the watermark belongs on the crop."""
        return self.images.load_image(index)

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.images.name(index)

    def after_crop(self, view: Tensor) -> Tensor:
        """Draws the watermark.

        Args:
            view: Values in [0, 1]. Shape: (3, image_size, image_size).
        """
        return _watermark(view.shape[-1])(view)


@cache
def _watermark(image_size: int) -> Callable[[Tensor], Tensor]:
    watermark: Callable[[Tensor], Tensor] = _package().AddWatermark(image_size)
    return watermark


def _package() -> Any:
    try:
        return importlib.import_module("imagenet_w")
    except ImportError as error:
        raise ImportError(
            "imagenet-w: the watermark is drawn by its authors' package; install it with `pip install imagenet-w` "
            "(licence CC BY-NC 4.0), then run the command again."
        ) from error
