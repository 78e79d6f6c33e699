"""What is random about one view, drawn before any pixel is touched.

Drawing and applying are two steps so that the same draw can be applied by different code: image by image in a worker
process, or a whole batch at once on the training device.
"""

import math
from itertools import permutations
from typing import NamedTuple

from synco_hub.data.samplers import derive_random_key, sample_uniforms
from synco_hub.data.views.parameters import TwoViewParameters

CROP_ATTEMPTS = 10
_NUM_DRAWS = 2 * CROP_ATTEMPTS + 14
_ORDERS = tuple(permutations(range(4)))


class ColorJitterDraw(NamedTuple):
    """Factors of one colour jitter.

    Attributes:
        brightness: Factor around 1.
        contrast: Factor around 1.
        saturation: Factor around 1.
        hue: Shift in turns of the colour circle.
        order: In which order the four are applied: 0 brightness, 1 contrast, 2 saturation, 3 hue.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: tuple[int, ...]


class ViewDraw(NamedTuple):
    """Everything random about one view.

    Attributes:
        top: First row of the crop.
        left: First column of the crop.
        height: Rows of the crop.
        width: Columns of the crop.
        flip: Mirror horizontally?
        color_jitter: None where the image keeps its colours.
        grayscale: Drop the colour?
        blur_sigma: Standard deviation of the blur in pixels; None where the image stays sharp.
        solarize: Invert the bright channel values?
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool
    color_jitter: ColorJitterDraw | None
    grayscale: bool
    blur_sigma: float | None
    solarize: bool


def draw_views(
    parameters: TwoViewParameters, width: int, height: int, key: int
) -> tuple[list[ViewDraw], list[ViewDraw]]:
    """Draws both views of an image of a given size, and its small ones, which change nothing of the two."""
    numbers = range(2 + parameters.local_crops)
    draws = [draw_view(parameters, number, width, height, key) for number in numbers]
    return draws[:2], draws[2:]


def draw_view(parameters: TwoViewParameters, number: int, width: int, height: int, key: int) -> ViewDraw:
    """Draws one view of an image of a given size: 0 is view 1, 1 is view 2, from 2 on they are small."""
    view, scale = number % 2, parameters.crop_scale if number < 2 else parameters.local_scale
    draws = sample_uniforms(derive_random_key(key, number), _NUM_DRAWS)
    rest = draws[2 * CROP_ATTEMPTS :]
    top, left, crop_height, crop_width = 0, 0, height, width
    if rest[0] < parameters.random_crop_probability:
        shape_draws = draws[: 2 * CROP_ATTEMPTS]
        top, left, crop_height, crop_width = _draw_crop(
            scale, parameters.crop_ratio, width, height, shape_draws, rest[1:3]
        )
    jitter = None
    if rest[4] < parameters.color_jitter_probability:
        jitter = ColorJitterDraw(
            brightness=1 + parameters.brightness * (2 * rest[5] - 1),
            contrast=1 + parameters.contrast * (2 * rest[6] - 1),
            saturation=1 + parameters.saturation * (2 * rest[7] - 1),
            hue=parameters.hue * (2 * rest[8] - 1),
            order=_ORDERS[int(rest[9] * len(_ORDERS))],
        )
    low, high = parameters.blur_sigma
    return ViewDraw(
        top=top,
        left=left,
        height=crop_height,
        width=crop_width,
        flip=rest[3] < parameters.flip_probability,
        color_jitter=jitter,
        grayscale=rest[10] < parameters.color_dropping_probability,
        blur_sigma=low + (high - low) * rest[12] if rest[11] < parameters.gaussian_blur_probability[view] else None,
        solarize=rest[13] < parameters.solarization_probability[view],
    )


def _draw_crop(
    scale: tuple[float, float],
    ratios: tuple[float, float],
    width: int,
    height: int,
    shape_draws: list[float],
    place_draws: list[float],
) -> tuple[int, int, int, int]:
    """Draws a crop box as the field's random resized crop does.

    A share of the area is drawn uniformly and a ratio log-uniformly until the box fits. If none of ten does, the
    largest central box whose ratio is allowed is taken.

    Returns:
        Top, left, height and width in pixels.

    Source: Szegedy et al., "Going deeper with convolutions" (2015); the fallback is that of torchvision.
    """
    (low_area, high_area), (low_ratio, high_ratio) = scale, ratios
    for attempt in range(CROP_ATTEMPTS):
        area = width * height * (low_area + (high_area - low_area) * shape_draws[2 * attempt])
        ratio = low_ratio * (high_ratio / low_ratio) ** shape_draws[2 * attempt + 1]
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(place_draws[0] * (height - crop_height + 1))
            left = int(place_draws[1] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * high_ratio)))
    crop_height = min(height, max(1, round(width / low_ratio)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


# A draw as a row of numbers, so that a batch of draws is one tensor and every sample takes the same steps. The order
# of the colour jitter is a permutation per sample, which a batch cannot follow by branching. But brightness, contrast
# and saturation are one formula, factor · image + (1 - factor) · (gray_share · gray + mean_share · mean of gray). So
# each sample carries three blends in its own order, and how many of them come before the turn of the hue.
BLENDS = 3
DRAW_ROW = (
    "flip",
    *(f"{part}_{number}" for part in ("factor", "gray_share", "mean_share") for number in range(BLENDS)),
    "blends_before_hue",
    "hue",
    "grayscale",
    "blur_sigma",
    "solarize",
)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


def draw_row(draw: ViewDraw) -> list[float]:
    """Everything about a view but its crop."""
    factors, gray_shares, mean_shares = [1.0] * BLENDS, [0.0] * BLENDS, [0.0] * BLENDS
    blends_before_hue, hue, number = BLENDS, 0.0, 0
    jitter = draw.color_jitter
    for step in () if jitter is None else jitter.order:
        assert jitter is not None
        if step == _HUE:
            blends_before_hue, hue = number, jitter.hue
            continue
        factors[number] = (jitter.brightness, jitter.contrast, jitter.saturation)[step]
        gray_shares[number] = float(step == _SATURATION)
        mean_shares[number] = float(step == _CONTRAST)
        number += 1
    return [
        float(draw.flip),
        *factors,
        *gray_shares,
        *mean_shares,
        float(blends_before_hue),
        hue,
        float(draw.grayscale),
        draw.blur_sigma or 0.0,
        float(draw.solarize),
    ]
