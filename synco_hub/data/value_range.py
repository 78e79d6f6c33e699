"""Which stored values are black and white, in images of more than 8 bits: said by the file, the user, or measured.

The type of a file tells only what it could hold: cameras and scanners put 10 or 12 bits into 16, and floats may begin
below 0. Of a data set one range is measured over some of its images, so that all are scaled alike.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

_HIGHEST_16_BIT = 65535.0
# What a file holds that uses fewer bits than its type has.
_FULL_SCALES = (255.0, 1023.0, 4095.0, 16383.0, _HIGHEST_16_BIT)
_FLOAT_SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, *_FULL_SCALES)
# Of TIFF: bits of a sample, whether it has a sign, its lowest and highest value as integers and as any numbers.
_BITS, _FORMAT, _LOWEST, _HIGHEST = 258, 339, (280, 340), (281, 341)
_UNSIGNED = 1
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class ValueRange:
    """The values that become black and white.

    Attributes:
        low: Black.
        high: White; above `low`.
        is_given: The user said it: it comes before what files state.
    """

    low: float
    high: float
    is_given: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `0,4095`; `4095` alone, which begins at 0; or `each`."""
        if text.strip() == "each":
            return cls(0.0, math.inf, is_given=True)
        numbers = re.fullmatch(r"(?:([^,]+),)?([^,]+)", text.strip())
        try:
            low, high = (float(part or 0) for part in numbers.groups()) if numbers else (0.0, 0.0)
        except ValueError:
            low, high = 0.0, 0.0
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"--value-range {text}: give black and white, such as 0,4095 or -1,1, or each.")
        return cls(low, high, is_given=True)

    @property
    def is_usual(self) -> bool:
        """Whether it is what the types of files promise: all of 16 bits, or 0 to 1."""
        return self.low == 0 and self.high in (1.0, _HIGHEST_16_BIT, math.inf)

    @property
    def is_of_each(self) -> bool:
        """Whether every image is read by its type and its own values from 0 on, as version 0.1 read all of them."""
        return self.high == math.inf

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    def to_gray(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        """Values as levels from 0 to 255."""
        return np.rint(np.clip((values - self.low) / (self.high - self.low), 0, 1) * 255).astype(np.uint8)


def choose_range(lowest: float, highest: float, is_float: bool, alone: bool = False) -> ValueRange:
    """The narrowest usual range that holds all values.

    An image `alone` may be a dark one, so that its type counts; where that is unusual, its own highest value is white.
    """
    scales: tuple[float, ...] = _FLOAT_SCALES if is_float else _FULL_SCALES
    if alone:
        scales = (1.0, 255.0) if is_float else (_HIGHEST_16_BIT,)
    low = 0.0 if lowest >= 0 else -1.0 if lowest >= -1 else -(2.0 ** math.ceil(math.log2(-lowest)))
    if low < 0 and not is_float:
        scales = tuple(sorted({*scales, -low - 1}))  # integers with a sign reach as far on both sides
    high = next((scale for scale in scales if highest <= scale), None)
    if high is None:
        high = highest if alone else 2.0 ** math.ceil(math.log2(highest + 1)) - 1
    return ValueRange(low, 0.0 if low < 0 and highest <= 0 else high)


def read_tagged_range(image: Image.Image, data: bytes) -> ValueRange | None:
    """What a TIFF file or the significant bits of a PNG file say; None where they say nothing."""
    if data.startswith(_PNG):
        place = data.find(b"sBIT", 0, max(data.find(b"IDAT"), 0))
        bits = data[place + 4] if place > 0 else 16
        return ValueRange(0.0, 2.0**bits - 1) if 1 <= bits < 16 else None
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    low, high = (next((_first(tags[tag]) for tag in each if tag in tags), None) for each in (_LOWEST, _HIGHEST))
    sample_bits = _first(tags.get(_BITS, 16))
    if high is not None and math.isfinite(high) and high > 0:
        return choose_range(min(low or 0.0, 0.0), high, image.mode == "F")
    return ValueRange(0.0, 2.0**sample_bits - 1) if 8 < sample_bits < 16 else None


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, tuple) else value)


def read_wide_values(image: Image.Image) -> npt.NDArray[np.float64]:
    """Values of a decoded image of one channel; what is no number is 0."""
    stored = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", None) or {}
    if image.mode == "I" and tags and _first(tags.get(_FORMAT, _UNSIGNED)) == _UNSIGNED:
        stored = stored.view(np.uint32)  # Pillow has no mode for them
    values = stored.astype(np.float64)
    return np.where(np.isnan(values), 0.0, np.clip(values, *_FLOAT_LIMITS))


_FLOAT_LIMITS = (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def has_wide_colours(image: Image.Image, data: bytes) -> bool:
    """Whether a PNG or TIFF file has colours of 16 bits, of which Pillow reads the higher 8."""
    if image.mode not in ("RGB", "RGBA"):
        return False
    if data.startswith(_PNG):
        return data[24] == 16
    bits: Any = (getattr(image, "tag_v2", None) or {}).get(_BITS, ())
    return isinstance(bits, tuple) and len(bits) >= 3 and min(bits) == 16


@dataclass(frozen=True)
class Extent:
    """Lowest and highest value of an image of more than 8 bits, and whether they are floats."""

    lowest: float
    highest: float
    is_float: bool

    @classmethod
    def of(cls, values: npt.NDArray[np.float64], is_float: bool) -> Self:
        """Of all values but infinite ones and the lowest float, by which maps say that nothing was measured."""
        lowest, highest = _FLOAT_LIMITS
        measured = values[(values > lowest) & (values < highest)] if is_float else values
        return cls(float(measured.min(initial=0.0)), float(measured.max(initial=0.0)), is_float)


def join_extents(extents: Iterable[Extent | None]) -> ValueRange | None:
    """The range that holds all images; None without an image of more than 8 bits."""
    found = [extent for extent in extents if extent is not None]
    if not found:
        return None
    lowest, highest = min(extent.lowest for extent in found), max(extent.highest for extent in found)
    return choose_range(lowest, highest, all(extent.is_float for extent in found))


def may_be_wide(data: bytes) -> bool:
    """Whether a file can have more than 8 bits; by its first bytes, without decoding it."""
    if data.startswith((b"\xff\xd8", b"RIFF", b"GIF8", b"BM")):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.mode in WIDE_MODES or has_wide_colours(image, data)
    except Exception:
        return False  # whatever is wrong with it is said when it is read


def spread(length: int, count: int) -> Sequence[int]:
    """`count` positions spread over a length, or all."""
    return range(length) if length <= count else [position * length // count for position in range(count)]
