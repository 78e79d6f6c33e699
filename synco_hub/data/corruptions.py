"""Changes of evaluation images between crop and normalisation: ImageNet-C's corruptions and ImageNet-W's watermark.

The fifteen corruptions are drawn on any image at five severities; the files of ImageNet-C are others. Eleven come from
the package imagecorruptions. Four are written here from their definition: its glass_blur and fog fail with current
libraries, its impulse_noise cannot be seeded, and its elastic_transform is another one. Its motion blur and snow are
made without ImageMagick, and no image passes through JPEG at the end as the files of ImageNet-C do.

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
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS
from synco_hub.data.decoding import opencv
from synco_hub.data.evaluation_dataset import EvaluationDataset, EvaluationItem
from synco_hub.data.evaluation_transform import EvaluationTransform
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.samplers import derive_random_key

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]
PixelChange = Callable[[Tensor, int], Tensor]

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST_SIDE = 32
# As Pillow makes an image grey.
_LUMINANCE = torch.tensor((0.299, 0.587, 0.114)).view(3, 1, 1)
LABEL = "corruptions drawn on the fly, not the files of ImageNet-C"
IMPLEMENTATIONS = (
    "elastic_transform, fog, glass_blur (copying, as the script that made the files) and impulse_noise follow "
    "ImageNet-C's definition here, the others are imagecorruptions' (motion blur and snow without ImageMagick)"
)
# How a corruption is drawn, where that has changed since version 0.1, which is 1.
DRAWING_VERSIONS = {"elastic_transform": 2, "glass_blur": 2}

# Share of the values that become 0 or 1.
_IMPULSE_AMOUNTS = (0.03, 0.06, 0.09, 0.17, 0.27)
# Blur in pixels, farthest partner in pixels, rounds.
_GLASS_SETTINGS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
# Size and smoothness of the displacement, farthest way of a corner of the affine map: pixels of an image of 224.
_ELASTIC_SETTINGS = (
    (488.0, 170.8, 24.4),
    (488.0, 19.52, 48.8),
    (12.2, 2.44, 4.88),
    (17.08, 2.44, 4.88),
    (29.28, 2.44, 4.88),
)
# Thickness, decay parameter. The published script multiplies each random height by its spread twice, so that from
# scale to scale the heights shrink by the square of the parameter.
_FOG_SETTINGS = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))


class ChangedDataset(EvaluationDataset):
    """Images after resize and crop, changed while their values are in [0, 1], then normalised.

    Args:
        images: The images.
        transform: The evaluation transform.
        change: From the pixels (channels, height, width) in [0, 1] and the position of an image to its changed pixels.
    """

    def __init__(self, images: ImageDataset, transform: EvaluationTransform, change: PixelChange) -> None:
        super().__init__(images, transform.without_normalisation())
        self.normalised = transform
        self.change = change

    def __getitem__(self, index: int) -> EvaluationItem:
        item = super().__getitem__(index)
        if item["bad_index"] < 0:
            pixels = self.change(item["pixel_values"], index)
            item["pixel_values"] = transforms.normalize(pixels, list(self.normalised.mean), list(self.normalised.std))
        return item


class Corruption:
    """One corruption at one severity, as a change of pixels."""

    def __init__(self, name: str, severity: int, seed: int) -> None:
        _check_cell(name, severity)
        self.name, self.severity, self.seed = name, severity, seed

    def __call__(self, pixels: Tensor, index: int) -> Tensor:
        """Corrupt the pixels of the image at a position; 8 bits in between, as in ImageNet-C.

        Pixels of one channel are corrupted as the grey picture that they are, and grey again afterwards.
        """
        image = (_in_three_channels(pixels) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        key = derive_corruption_key(self.seed, index, self.name, self.severity)
        changed = corrupt_image(np.ascontiguousarray(image), self.name, self.severity, key)
        return _in_channels_of(pixels, torch.from_numpy(np.array(changed)).permute(2, 0, 1).float() / 255)


def _in_three_channels(pixels: Tensor) -> Tensor:
    return pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels


def _in_channels_of(like: Tensor, pixels: Tensor) -> Tensor:
    """Pixels of three channels as they are, or as grey ones."""
    # torchvision's weights leave white a little less than 1.
    return (pixels * _LUMINANCE).sum(0, keepdim=True) if len(like) == 1 else pixels


class WatermarkedImages(ImageDataset):
    """ImageNet-W: images with a watermark that is drawn on the cropped view.

    Source: Li et al., "A Whac-A-Mole Dilemma" (2023); their package `imagenet-w` draws it. Its code and font have
    other licences than this package, so it is not a part of it.
    """

    def __init__(self, images: ImageDataset) -> None:
        _imagenet_w()
        about = images.description
        super().__init__(
            images.labels,
            images.class_names,
            about.derive("imagenet-w", split_rule=f"{about.split_rule}; watermark of imagenet-w after the crop"),
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
            view: Values in [0, 1]. Shape: (channels, image_size, image_size).
        """
        return _in_channels_of(view, _watermark(view.shape[-1])(_in_three_channels(view)))


@functools.cache
def _watermark(image_size: int) -> Callable[[Tensor], Tensor]:
    watermark: Callable[[Tensor], Tensor] = _imagenet_w().AddWatermark(image_size)
    return watermark


def _imagenet_w() -> Any:
    try:
        return importlib.import_module("imagenet_w")
    except ImportError as error:
        raise ImportError(
            "imagenet-w: the watermark is drawn by its authors' package; install it with `pip install imagenet-w` "
            "(licence CC BY-NC 4.0), then run the command again."
        ) from error


def corrupt_image(image: Pixels, corruption: str, severity: int, key: int) -> Pixels:
    """Corrupt one image.

    Args:
        image: RGB of at least 32 x 32 pixels. Shape: (height, width, 3).
        corruption: One of `BENCHMARK_CORRUPTIONS`.
        severity: 1 to 5.
        key: The same key gives the same pixels; see :func:`derive_corruption_key`.

    Returns:
        Shape: that of the image.
    """
    _check_cell(corruption, severity)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image of shape {image.shape} and {image.dtype}: give 8-bit RGB (height, width, 3)")
    if min(image.shape[:2]) < SMALLEST_SIDE:
        raise ValueError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels: corruptions need at least {SMALLEST_SIDE} x "
            f"{SMALLEST_SIDE}; use a model with larger inputs"
        )
    own = _OWN_CORRUPTIONS.get(corruption)
    if own is None:
        return _corrupt_by_package(image, corruption, severity, key)
    values = own(image / 255.0, severity, np.random.Generator(np.random.PCG64(key)))
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def derive_corruption_key(seed: int, index: int, corruption: str, severity: int) -> int:
    """The key of one image in one cell, so that neither order nor workers change a pixel."""
    return derive_random_key(seed, index, BENCHMARK_CORRUPTIONS.index(corruption), severity)


def _check_cell(corruption: str, severity: int) -> None:
    if corruption not in BENCHMARK_CORRUPTIONS:
        raise ValueError(f"corruption {corruption!r} is unknown: use one of {', '.join(BENCHMARK_CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity} is unknown: use 1 to 5")


def _impulse_noise(image: Values, severity: int, generator: np.random.Generator) -> Values:
    """Salt and pepper: each value becomes 0 or 1, equally likely, with a probability."""
    amount = _IMPULSE_AMOUNTS[severity - 1]
    drawn = generator.random(image.shape)
    return np.where(drawn < amount / 2, 0.0, np.where(drawn < amount, 1.0, image))


def _glass_blur(image: Values, severity: int, generator: np.random.Generator) -> Values:
    """Blur, let each pixel take the value of a near one, blur again.

    Pixels are visited from the lower right to the upper left, so that a value can travel. The published script means
    to exchange the two, but both sides of its assignment are views of one array: what made ImageNet-C's files copies.
    """
    sigma, reach, rounds = _GLASS_SETTINGS[severity - 1]
    height, width = image.shape[:2]
    blurred = np.uint8(_gaussian(image, sigma) * 255) / 255.0
    # Of whole numbers instead of pixels, the copies take a tenth of the time.
    place = list(range(height * width))
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    for _ in range(rounds):
        steps = generator.integers(-reach, reach, size=(len(rows), len(columns), 2))
        offsets = (steps[..., 0] * width + steps[..., 1]).tolist()
        for row, row_offsets in zip(rows, offsets, strict=True):
            for column, offset in zip(columns, row_offsets, strict=True):
                here = row * width + column
                place[here] = place[here + offset]
    shuffled = blurred.reshape(-1, 3)[np.array(place)].reshape(image.shape)
    return _gaussian(shuffled, sigma)


def _fog(image: Values, severity: int, generator: np.random.Generator) -> Values:
    """A plasma of random heights laid over the image, the whole scaled back to the image's brightest value."""
    thickness, decay = _FOG_SETTINGS[severity - 1]
    height, width = image.shape[:2]
    clouds = _plasma(1 << (max(height, width) - 1).bit_length(), decay**2, generator)[:height, :width, None]
    brightest = float(image.max())
    return (image + thickness * clouds) * brightest / (brightest + thickness)


def _elastic_transform(image: Values, severity: int, generator: np.random.Generator) -> Values:
    """Move three points of the middle, the image with them, then every pixel by a smooth random displacement.

    The published lengths are pixels of an image of 224; a smaller one gets proportionally smaller ones.
    """
    cv2 = opencv()
    height, width = image.shape[:2]
    size, smoothness, reach = np.array(_ELASTIC_SETTINGS[severity - 1]) * min(1.0, min(height, width) / 224)
    middle, side = np.array([height, width]) // 2, min(height, width) // 3
    corners = np.array([middle + side, middle + np.array([side, -side]), middle - side], dtype=np.float32)
    moved = corners + generator.uniform(-reach, reach, corners.shape).astype(np.float32)
    affine = cv2.getAffineTransform(corners, moved)
    bent = cv2.warpAffine(np.float32(image), affine, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    rows, columns = (
        place + size * gaussian_filter(generator.uniform(-1, 1, place.shape), smoothness, mode="reflect", truncate=3)
        for place in np.mgrid[:height, :width].astype(np.float64)
    )
    bent = [map_coordinates(bent[..., channel], (rows, columns), order=1, mode="reflect") for channel in range(3)]
    return np.stack(bent, axis=2)


# Values are in [0, 1], of shape (height, width, 3), and a severity is 1 to 5.
_OWN_CORRUPTIONS: dict[str, Callable[[Values, int, np.random.Generator], Values]] = {
    "impulse_noise": _impulse_noise,
    "elastic_transform": _elastic_transform,
    "glass_blur": _glass_blur,
    "fog": _fog,
}


def _plasma(size: int, decay: float, generator: np.random.Generator) -> Values:
    """A square of heights that repeats at its edges, by the diamond-square algorithm.

    Starting from one corner, every square gets its centre and every diamond its middle: the mean of its four corners
    and a random height. From scale to scale the heights shrink by the decay.

    Returns:
        Values in [0, 1], both ends reached (all 0 for size 1). Shape: (size, size).
    """
    if size < 1 or size & (size - 1):
        raise ValueError(f"a plasma of side {size}: squares are halved down to 1, so give a power of two")
    heights = np.zeros((size, size))
    step, spread = size, 1.0
    while step > 1:
        half = step // 2
        corners = heights[::step, ::step]
        across = corners + np.roll(corners, -1, axis=0)
        centres = _displace(across + np.roll(across, -1, axis=1), spread, generator)
        heights[half::step, half::step] = centres
        # A diamond's middle lies between two corners and two centres.
        below = corners + np.roll(corners, -1, axis=0) + centres + np.roll(centres, 1, axis=1)
        heights[half::step, ::step] = _displace(below, spread, generator)
        beside = corners + np.roll(corners, -1, axis=1) + centres + np.roll(centres, 1, axis=0)
        heights[::step, half::step] = _displace(beside, spread, generator)
        step, spread = half, spread / decay
    heights -= heights.min()
    return heights / max(float(heights.max()), np.finfo(np.float64).tiny)


def _displace(sums: Values, spread: float, generator: np.random.Generator) -> Values:
    displaced: Values = sums / 4 + generator.uniform(-spread, spread, sums.shape)
    return displaced


def _gaussian(image: Values, sigma: float) -> Values:
    """Gaussian blur of each channel, cut at four sigma, edges repeated."""
    cv2 = opencv()
    side = 2 * int(4 * sigma + 0.5) + 1
    blurred: Values = cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    return blurred


def _corrupt_by_package(image: Pixels, corruption: str, severity: int, key: int) -> Pixels:
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
    """The module imagecorruptions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("imagecorruptions")
    except ImportError as error:
        raise ImportError(
            f"corruptions on the fly need imagecorruptions ({error}): install it with "
            "`pip install imagecorruptions==1.1.2 'setuptools<81'`"
        ) from None
