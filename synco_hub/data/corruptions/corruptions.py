"""The fifteen corruptions of ImageNet-C at five severities, drawn on any image; the files of ImageNet-C are others.

Twelve come from the package imagecorruptions. Three are written here from their definition: its glass_blur and fog
fail with current libraries, and its impulse_noise cannot be seeded. Its motion blur and snow are made without
ImageMagick, and no image passes through JPEG at the end as the files of ImageNet-C do.

Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations"
(2019), section 3 and the published parameters.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS
from synco_hub.data.corruptions.diamond_square import plasma
from synco_hub.data.decoding import opencv
from synco_hub.data.samplers import random_key

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST_SIDE = 32
LABEL = "corruptions drawn on the fly, not the files of ImageNet-C"

# Share of the values that become 0 or 1.
IMPULSE_AMOUNTS = (0.03, 0.06, 0.09, 0.17, 0.27)
# Blur in pixels, farthest partner in pixels, rounds.
GLASS_SETTINGS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
# Thickness, decay parameter. The published script multiplies each random height by its spread twice, so that from
# scale to scale the heights shrink by the square of the parameter.
FOG_SETTINGS = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))


def corrupted(image: Pixels, corruption: str, severity: int, key: int) -> Pixels:
    """Corrupt one image.

    Args:
        image: RGB of at least 32 x 32 pixels. Shape: (height, width, 3).
        corruption: One of `BENCHMARK_CORRUPTIONS`.
        severity: 1 to 5.
        key: The same key gives the same pixels; see :func:`corruption_key`.

    Returns:
        Shape: that of the image.

    Raises:
        ValueError: If corruption or severity is unknown, or the image is no RGB image or too small.
        ImportError: If imagecorruptions is needed and not installed.
    """
    check_cell(corruption, severity)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image of shape {image.shape} and {image.dtype}: give 8-bit RGB (height, width, 3)")
    if min(image.shape[:2]) < SMALLEST_SIDE:
        raise ValueError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels: corruptions need at least {SMALLEST_SIDE} x "
            f"{SMALLEST_SIDE}; use a model with larger inputs"
        )
    own = OWN_CORRUPTIONS.get(corruption)
    if own is None:
        return _by_package(image, corruption, severity, key)
    values = own(image / 255.0, severity, np.random.Generator(np.random.PCG64(key)))
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def corruption_key(seed: int, index: int, corruption: str, severity: int) -> int:
    """The key of one image in one cell, so that neither order nor workers change a pixel.

    Args:
        seed: Of the whole measurement.
        index: Position of the image in its data set.
        corruption: One of `BENCHMARK_CORRUPTIONS`.
        severity: 1 to 5.
    """
    return random_key(seed, index, BENCHMARK_CORRUPTIONS.index(corruption), severity)


def check_cell(corruption: str, severity: int) -> None:
    """Check the names of a cell.

    Raises:
        ValueError: If corruption or severity is unknown.
    """
    if corruption not in BENCHMARK_CORRUPTIONS:
        raise ValueError(f"corruption {corruption!r} is unknown: use one of {', '.join(BENCHMARK_CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity} is unknown: use 1 to 5")


def impulse_noise(image: Values, severity: int, generator: np.random.Generator) -> Values:
    """Salt and pepper: each value becomes 0 or 1, equally likely, with a probability.

    Args:
        image: Values in [0, 1]. Shape: (height, width, 3).
        severity: 1 to 5.
        generator: Draws.
    """
    amount = IMPULSE_AMOUNTS[severity - 1]
    drawn = generator.random(image.shape)
    return np.where(drawn < amount / 2, 0.0, np.where(drawn < amount, 1.0, image))


def glass_blur(image: Values, severity: int, generator: np.random.Generator) -> Values:
    """Blur, let pixels change places with near ones, blur again.

    Pixels are visited from the lower right to the upper left. In the published script the exchange copies the
    neighbour instead, because both sides of its assignment are views of one array.

    Args:
        image: Values in [0, 1]. Shape: (height, width, 3).
        severity: 1 to 5.
        generator: Draws.
    """
    sigma, reach, rounds = GLASS_SETTINGS[severity - 1]
    height, width = image.shape[:2]
    blurred = np.uint8(_gaussian(image, sigma) * 255) / 255.0
    # Of whole numbers instead of pixels, the exchanges take a tenth of the time.
    place = list(range(height * width))
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    for _ in range(rounds):
        steps = generator.integers(-reach, reach, size=(len(rows), len(columns), 2))
        offsets = (steps[..., 0] * width + steps[..., 1]).tolist()
        for row, row_offsets in zip(rows, offsets, strict=True):
            for column, offset in zip(columns, row_offsets, strict=True):
                here = row * width + column
                there = here + offset
                place[here], place[there] = place[there], place[here]
    shuffled = blurred.reshape(-1, 3)[np.array(place)].reshape(image.shape)
    return _gaussian(shuffled, sigma)


def fog(image: Values, severity: int, generator: np.random.Generator) -> Values:
    """A plasma of random heights laid over the image, the whole scaled back to the image's brightest value.

    Args:
        image: Values in [0, 1]. Shape: (height, width, 3).
        severity: 1 to 5.
        generator: Draws.
    """
    thickness, decay = FOG_SETTINGS[severity - 1]
    height, width = image.shape[:2]
    clouds = plasma(1 << (max(height, width) - 1).bit_length(), decay**2, generator)[:height, :width, None]
    brightest = float(image.max())
    return (image + thickness * clouds) * brightest / (brightest + thickness)


OWN_CORRUPTIONS: dict[str, Callable[[Values, int, np.random.Generator], Values]] = {
    "impulse_noise": impulse_noise,
    "glass_blur": glass_blur,
    "fog": fog,
}


def _gaussian(image: Values, sigma: float) -> Values:
    """Gaussian blur of each channel, cut at four sigma, edges repeated."""
    cv2 = opencv()
    side = 2 * int(4 * sigma + 0.5) + 1
    blurred: Values = cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    return blurred


def _by_package(image: Pixels, corruption: str, severity: int, key: int) -> Pixels:
    package = require_package()
    # The package draws from numpy's old global generator: seeded for one image, then put back.
    state = np.random.get_state()
    np.random.seed(key & 0xFFFFFFFF)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            result: Pixels = package.corrupt(image, severity, corruption)
    finally:
        np.random.set_state(state)
    return result


@functools.cache
def require_package() -> Any:
    """The module imagecorruptions.

    Raises:
        ImportError: If it cannot be imported; the text has the command that installs it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("imagecorruptions")
    except ImportError as error:
        raise ImportError(
            f"corruptions on the fly need imagecorruptions ({error}): install it with "
            "`pip install imagecorruptions==1.1.2 'setuptools<81'`"
        ) from None
