"""An image as the model sees it and as the eye does, colours for maps, and maps laid over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from transformers import TimmWrapperImageProcessor

from synco_hub.data.evaluation_transform import make_view, tell_colours

# Uniform in lightness, so that they read the same in grey and for every kind of colour vision.
COLOUR_MAPS = ("viridis", "cividis", "magma", "inferno", "plasma")

_COMPARED_SIDE, _SAME_WITHIN = 24, 0.02
LEAST_SIDE = 8
LONGEST_ASPECT = 16.0

FloatArray = NDArray[np.float32]


def as_rgb(image: Image.Image | Tensor | NDArray[Any]) -> FloatArray:
    """An image as an array that can be drawn.

    Args:
        image: A PIL image of any mode; an array (height, width) or (height, width, 3); or a tensor (3, height, width)
            or (1, 3, height, width). Integers go to 255, floats to 1.

    Returns:
        Values in [0, 1], float32. Shape: (height, width, 3).

    Raises:
        ValueError: If the shape is none of these, or floats are outside [0, 1] (normalised pixel values: see
            :func:`denormalised`).
    """
    if isinstance(image, Image.Image):
        array: NDArray[Any] = np.asarray(image.convert("RGB"))
    elif isinstance(image, Tensor):
        array = image.detach().cpu().squeeze(0).numpy() if image.ndim == 4 and len(image) == 1 else image.cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an image of shape {array.shape} cannot be drawn: give (height, width, 3) or a PIL image")
    scaled = (array / 255.0 if np.issubdtype(array.dtype, np.integer) else array).astype(np.float32)
    if not (scaled.min() >= -1e-4 and scaled.max() <= 1 + 1e-4):
        raise ValueError(
            f"the image has values from {scaled.min():.3g} to {scaled.max():.3g}: give the picture itself with values "
            "in [0, 1] or 0 to 255, or undo the normalisation with denormalised()"
        )
    return scaled.clip(0.0, 1.0)


def denormalised(pixel_values: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo an image processor's normalisation.

    Args:
        pixel_values: Normalised images. Shape: (..., channels, height, width).
        mean: Mean of each channel that was subtracted.
        std: Standard deviation of each channel that was divided by.

    Returns:
        Values in [0, 1]. Shape: as ``pixel_values``.
    """
    scale = pixel_values.new_tensor(std)[:, None, None]
    return (pixel_values * scale + pixel_values.new_tensor(mean)[:, None, None]).clamp(0.0, 1.0)


def relative_to_maximum(attention: Tensor | NDArray[Any]) -> FloatArray:
    """A map in units of its maximum, 0 where nothing is.

    Args:
        attention: Not negative. Shape: (height, width).

    Returns:
        Values in [0, 1], float32; all 0 for a map of zeros. Shape: (height, width).
    """
    array = attention.detach().cpu().numpy() if isinstance(attention, Tensor) else np.asarray(attention)
    highest = float(array.max())
    return (array / highest if highest > 0 else np.zeros_like(array)).astype(np.float32)


def relative_to_range(maps: Tensor) -> Tensor:
    """Maps stretched so that each one's minimum is 0 and its maximum 1; all 0 where a map is even.

    Args:
        maps: Shape: (..., height, width).

    Returns:
        Values in [0, 1]. Shape: (..., height, width).

    Source: paper section 12.2, normalisation of the saliency map.
    """
    lowest, highest = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    spread = highest - lowest
    return torch.where(spread > 0, (maps - lowest) / spread.where(spread > 0, torch.ones_like(spread)), 0.0)


def overlay(
    image: Image.Image | Tensor | NDArray[Any],
    attention: Tensor | NDArray[Any],
    strength: float = 0.6,
    colour_map: str = "viridis",
) -> FloatArray:
    """A map in colour over an image.

    Args:
        image: See :func:`as_rgb`.
        attention: Map of the image's size, not negative. Shape: (height, width).
        strength: Share of the map's colour, from 0 (the image alone) to 1 (the map alone).
        colour_map: One of :data:`COLOUR_MAPS`, or any other map that matplotlib knows.

    Returns:
        Values in [0, 1]; a map of zeros says so in the picture. Shape: (height, width, 3).

    Raises:
        ValueError: If sizes differ, the strength is out of range or the colour map is unknown.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength} is not in [0, 1]: 0 shows the image alone, 1 the map alone")
    if colour_map not in matplotlib.colormaps:
        raise ValueError(f"colour_map={colour_map!r} is unknown to matplotlib: use one of {', '.join(COLOUR_MAPS)}")
    picture, relative = as_rgb(image), relative_to_maximum(attention)
    if picture.shape[:2] != relative.shape:
        raise ValueError(
            f"the image is {picture.shape[0]}x{picture.shape[1]}, the map {relative.shape[0]}x{relative.shape[1]}: "
            "upsample the map to the image first"
        )
    drawn = blended(picture, matplotlib.colormaps[colour_map](relative)[:, :, :3], strength)
    return drawn if relative.any() else _written_on(drawn, "zero everywhere")


def _written_on(picture: FloatArray, text: str) -> FloatArray:
    """Words across the middle: an even panel under a scale from 0 to 1 would say something else."""
    image = Image.fromarray((picture * 255).round().astype(np.uint8))
    draw = ImageDraw.Draw(image)
    place = (image.width / 2, image.height / 2)
    draw.text(place, text, fill="white", anchor="mm", font=ImageFont.load_default(image.width / 10))
    written: FloatArray = np.asarray(image, dtype=np.float32) / np.float32(255)
    return written


def blended(picture: NDArray[Any], colours: NDArray[Any], strength: float) -> FloatArray:
    """Colours over a picture.

    Args:
        picture: Values in [0, 1]. Shape: (height, width, 3).
        colours: Values in [0, 1]. Shape: (height, width, 3).
        strength: Share of the colours, from 0 (the picture alone) to 1 (the colours alone).

    Returns:
        Values in [0, 1]. Shape: (height, width, 3).
    """
    mixture: FloatArray = ((1 - strength) * picture + strength * colours).astype(np.float32)
    return mixture


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
    view = _enlarged_view(picture, processor, detail)
    mean, std = tell_colours(processor) or ((0.0,) * len(view), (1.0,) * len(view))
    shown = _shown(view, mean, std)
    if (seen := min(view.shape[-2:])) < shown_side:
        larger = _enlarged_view(picture, processor, detail * math.ceil(shown_side / seen))
        # Some processors crop small views and squeeze large ones: maps belong on what the model sees. Which part that
        # is depends on the picture's size alone, and shows in a smooth one; what a picture shows may be too fine.
        ramps = _draw_ramps(picture.size)
        parts = (
            _shown(_enlarged_view(ramps, processor, factor), mean, std)
            for factor in (detail, detail * math.ceil(shown_side / seen))
        )
        if show_same_part(*parts):
            shown = _shown(larger, mean, std)
    return PreparedImage(view[None], shown)


def _draw_ramps(size: tuple[int, int]) -> Image.Image:
    """A picture whose red rises from left to right and whose green rises from top to bottom."""
    across, down = (Image.linear_gradient("L").rotate(turn).resize(size) for turn in (90, 0))
    return Image.merge("RGB", (across, down, Image.new("L", size)))


def _shown(view: Tensor, mean: Sequence[float], std: Sequence[float]) -> FloatArray:
    pixels = denormalised(view, mean, std)
    return as_rgb(pixels if len(pixels) == 3 else pixels.mean(dim=0, keepdim=True).expand(3, -1, -1))


def _enlarged_view(picture: Image.Image, processor: Any, factor: int) -> Tensor:
    """What the processor makes of a picture in so many times more pixels a side. Shape: (channels, height, width)."""
    if factor > 1 and isinstance(processor, TimmWrapperImageProcessor):
        channels, height, width = processor.data_config["input_size"]
        size = (channels, height * factor, width * factor)
        return make_view(TimmWrapperImageProcessor({**processor.data_config, "input_size": size}), picture)
    return make_view(processor, picture, **_scaled(processor, factor))


def pad_to_be_seen_whole(picture: Image.Image, processor: Any) -> Image.Image:
    """A picture in the middle of a square so large that the processor's centre crop cuts none of it off.

    The square has the colour that normalisation makes zero.
    """
    resized, cropped = (dict(getattr(processor, name, None) or {}) for name in ("size", "crop_size"))
    # timm's processors and some others say which share of a side they keep.
    kept = getattr(processor, "data_config", {}).get("crop_pct") or getattr(processor, "crop_pct", None) or 1.0
    margin = max(1.0 / kept, 1.0)
    if getattr(processor, "do_center_crop", False) and "shortest_edge" in resized and cropped.get("height"):
        margin = max(resized["shortest_edge"] / cropped["height"], 1.0)
    side = math.ceil(max(picture.size) * margin)
    mean = getattr(processor, "image_mean", None) or (0.5, 0.5, 0.5)
    square = Image.new("RGB", (side, side), tuple(round(255 * value) for value in mean[:3]))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _scaled(processor: Any, factor: int) -> dict[str, dict[str, int]]:
    """The processor's own sizes times a factor, as arguments of its call."""
    scaled: dict[str, dict[str, int]] = {}
    for name in ("size", "crop_size"):
        own = getattr(processor, name, None)
        if factor > 1 and own is not None:
            scaled[name] = {key: value * factor for key, value in dict(own).items() if value}
    return scaled


def show_same_part(ours: FloatArray, theirs: FloatArray) -> bool:
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
