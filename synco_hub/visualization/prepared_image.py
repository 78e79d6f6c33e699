"""An image as the model sees it, and the same crop in enough pixels to be looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from synco_hub.visualization.overlay import FloatArray, as_rgb, denormalised

_COMPARED_SIDE, _SAME_WITHIN = 24, 0.02
LEAST_SIDE = 8
LONGEST_ASPECT = 16.0


@dataclass(frozen=True)
class PreparedImage:
    """One image, twice.

    Attributes:
        pixel_values: What the model is given. Shape: (1, 3, height, width).
        shown: The same crop for the eye, values in [0, 1]. Shape: (shown_height, shown_width, 3).
    """

    pixel_values: Tensor
    shown: FloatArray


def prepared_image(picture: Image.Image, processor: Any, detail: int = 1, shown_side: int = 0) -> PreparedImage:
    """Preprocess one image, if wanted larger than the model was trained with.

    Args:
        picture: RGB.
        processor: The checkpoint's image processor.
        detail: Factor on the model's own input size; the positions must then be interpolated, and the maps have
            this factor more rows and columns.
        shown_side: Least side in pixels of the copy that is shown; 0 shows what the model sees.

    Returns:
        The model's input and the picture to draw on; the same processor cuts both, so they show the same scene.

    Raises:
        ValueError: If the picture is smaller than 8 pixels or longer than 16 times its width, or the detail is
            below 1.
    """
    width, height = picture.size
    if min(width, height) < LEAST_SIDE:
        raise ValueError(f"the picture is {width}x{height}: it needs at least {LEAST_SIDE} pixels a side")
    if max(width, height) > LONGEST_ASPECT * min(width, height):
        raise ValueError(
            f"the picture is {width}x{height}, longer than {LONGEST_ASPECT:g} times its other side: crop it first"
        )
    if detail < 1:
        raise ValueError(f"detail={detail} is below 1: it multiplies the model's own input size, give 1, 2 or 3")
    pixel_values: Tensor = processor(picture, return_tensors="pt", **_scaled(processor, detail)).pixel_values
    seen = min(pixel_values.shape[-2:])
    if seen >= shown_side:
        if not getattr(processor, "do_normalize", True):
            return PreparedImage(pixel_values, as_rgb(pixel_values.clamp(0, 1)))
        return PreparedImage(
            pixel_values, as_rgb(denormalised(pixel_values[0], processor.image_mean, processor.image_std))
        )
    scale = _scaled(processor, detail * math.ceil(shown_side / seen))
    enlarged = processor(picture, return_tensors="pt", do_normalize=False, **scale).pixel_values
    return PreparedImage(pixel_values, as_rgb(enlarged.clamp(0, 1)))


def _scaled(processor: Any, factor: int) -> dict[str, dict[str, int]]:
    """The processor's own sizes times a factor, as arguments of its call."""
    scaled = {}
    for name in ("size", "crop_size"):
        own = getattr(processor, name, None)
        if factor > 1 and own is not None:
            scaled[name] = {key: value * factor for key, value in dict(own).items() if value}
    return scaled


def same_part(ours: FloatArray, theirs: FloatArray) -> bool:
    """Whether two pictures show the same part of an image, whatever their number of pixels.

    Args:
        ours: Values in [0, 1]. Shape: (height, width, 3).
        theirs: Values in [0, 1], of any other size. Shape: (height, width, 3).
    """
    (height, width), (other_height, other_width) = ours.shape[:2], theirs.shape[:2]
    if abs(height * other_width - width * other_height) > 0.02 * height * other_width:
        return False
    small = [
        np.asarray(
            Image.fromarray((each * 255).round().astype(np.uint8)).resize(
                (_COMPARED_SIDE, _COMPARED_SIDE), Image.Resampling.BOX
            ),
            dtype=np.float32,
        )
        / 255
        for each in (ours, theirs)
    ]
    return float(np.abs(small[0] - small[1]).mean()) < _SAME_WITHIN
