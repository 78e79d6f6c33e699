"""The image processor of every checkpoint: resize, centre crop, ImageNet normalisation."""

from __future__ import annotations

import copy
from typing import Any

from transformers import ViTImageProcessor
from transformers.image_utils import PILImageResampling
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def image_processor(image_size: int = 224, num_channels: int = 3) -> ViTImageProcessor:
    """Build the evaluation preprocessing for one image size.

    The shorter side is resized (bicubic) to 256 / 224 of the image size, then the centre is cropped.

    Args:
        image_size: Side of the crop in pixels.
        num_channels: 3, or 1 for a network of grey images (mode `L` of Pillow).

    Returns:
        A `ViTImageProcessor` whose output has shape (batch, num_channels, image_size, image_size).

    Raises:
        ValueError: If pictures have no such number of channels.

    Source: paper section 8.2 (centre crops); the sizes are those of the k-NN protocol of DINO.
    """
    if num_channels not in (1, 3):
        raise ValueError(f"num_channels={num_channels}: an image processor gives 3 channels, or 1 of grey images.")
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if num_channels == 1:
        mean, std = [sum(mean) / 3], [sum(std) / 3]
    return ViTImageProcessor(
        do_resize=True,
        size={"shortest_edge": round(image_size * 256 / 224)},
        resample=PILImageResampling.BICUBIC,
        do_center_crop=True,
        crop_size={"height": image_size, "width": image_size},
        do_rescale=True,
        do_normalize=True,
        do_convert_rgb=num_channels == 3,
        image_mean=mean,
        image_std=std,
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
