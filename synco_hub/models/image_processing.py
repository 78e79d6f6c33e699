"""The image processor of every checkpoint: resize, centre crop, ImageNet normalisation."""

from __future__ import annotations

import copy
from typing import Any

from transformers import ViTImageProcessor
from transformers.image_utils import PILImageResampling
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def image_processor(image_size: int = 224) -> ViTImageProcessor:
    """Build the evaluation preprocessing for one image size.

    The shorter side is resized (bicubic) to 256 / 224 of the image size, then the centre is cropped.

    Args:
        image_size: Side of the crop in pixels.

    Returns:
        A `ViTImageProcessor` whose output has shape (batch, 3, image_size, image_size).

    Source: paper section 8.2 (centre crops); the sizes are those of the k-NN protocol of DINO.
    """
    return ViTImageProcessor(
        do_resize=True,
        size={"shortest_edge": round(image_size * 256 / 224)},
        resample=PILImageResampling.BICUBIC,
        do_center_crop=True,
        crop_size={"height": image_size, "width": image_size},
        do_rescale=True,
        do_normalize=True,
        do_convert_rgb=True,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )


def resize_image_processor(processor: Any, image_size: int) -> Any:
    """The same preprocessing for a network of another image size: every size grows by the same factor."""
    sizes = {name: getattr(processor, name, None) for name in ("size", "crop_size")}
    cut = sizes["crop_size"] if getattr(processor, "do_center_crop", False) else sizes["size"]
    before = None if cut is None else dict(cut).get("height") or dict(cut).get("shortest_edge")
    if not before:
        raise ValueError(
            f"{type(processor).__name__} has no size that could be {image_size} pixels: leave the image size out."
        )
    resized = copy.deepcopy(processor)
    for name, size in sizes.items():
        if size is not None:
            scaled = {key: round(value * image_size / before) for key, value in dict(size).items() if value}
            setattr(resized, name, type(size)(**scaled))
    return resized
