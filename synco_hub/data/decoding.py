"""From the bytes of any image file to RGB, or to one clear error."""

import importlib
import io
import os
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from synco_hub.data.value_range import (
    WIDE_MODES,
    Extent,
    ValueRange,
    choose_range,
    has_wide_colours,
    may_be_wide,
    read_tagged_range,
    read_wide_values,
)


@cache
def opencv() -> Any:
    """OpenCV, kept to one thread: loader processes must not fight over cores."""
    # Not at the top: it takes a tenth of a second, and much of the package works without a picture.
    module = importlib.import_module("cv2")
    module.setNumThreads(0)
    return module


# The most pixels that an image may have, for images that are trusted; Pillow's own limit is twice its setting.
LIMIT_VARIABLE = "SYNCO_HUB_MAX_PIXELS"
# Packages that teach Pillow HEIC and JPEG XL.
_PLUGINS = ("pillow_heif", "pillow_jxl")


@cache
def register_plugins() -> None:
    """Lets the installed packages that open further formats tell Pillow so."""
    for name in _PLUGINS:
        try:
            # Not at the top: they are optional, and needed where such a file is.
            plugin = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(plugin, "register_heif_opener"):
            plugin.register_heif_opener()


@cache
def _raise_pixel_limit() -> None:
    """Reads the user's limit; a variable reaches loader processes however they are started."""
    given = os.environ.get(LIMIT_VARIABLE)
    if given is None:
        return
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"{LIMIT_VARIABLE}={given} is no number of pixels: give one such as 500000000.")
    Image.MAX_IMAGE_PIXELS = (int(given) + 1) // 2


# How files begin that carry an image's name and are none, and what they are.
_NO_IMAGES = (
    (re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE), "it is a web page, as of a download that failed"),
    (re.compile(rb"version https://git-lfs"), "it is a Git LFS pointer; fetch the image with `git lfs pull`"),
    (re.compile(rb"PK\x03\x04"), "it is a zip archive"),
    (re.compile(rb"%PDF"), "it is a PDF document"),
    (re.compile(rb"\s*(<\?xml|<svg)"), "it is an SVG drawing or other XML"),
    (re.compile(rb"....ftyp(hei|hev|mif|msf)", re.DOTALL), "it is HEIC, which needs `pip install pillow-heif`"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "it is JPEG XL, which needs `pip install pillow-jxl-plugin`"),
)


_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
# Inside a scan 0xff is followed by 0 or by the number of a restart.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")


class UnreadableImageError(ValueError):
    """A file that cannot be turned into an image.

    Attributes:
        name: File name, or what stands for it.
        reason: What is wrong, in words.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: not a readable image ({reason}); repair, replace or remove the file.")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["UnreadableImageError"], tuple[str, str]]:
        """Lets a worker process hand the error to the main process: both parts are needed to build it again."""
        return type(self), (self.name, self.reason)


def decode_rgb(
    source: bytes | str | os.PathLike[str], name: str | None = None, value_range: ValueRange | None = None
) -> Image.Image:
    """Decodes an image file of any mode to 8-bit RGB, upright.

    Transparent pixels show white. The orientation that a camera wrote into the file is applied. More than 8 bits are
    scaled to 8, not clipped: by the range that is given, that the file states, or that fits the image alone. CMYK,
    palette and 1-bit images are converted. Of an animation the first frame counts.

    Args:
        source: The encoded bytes, or the path of a file.
        name: How errors name the image; None takes the path, or says that bytes were given.
        value_range: Values of black and white in images of more than 8 bits; `ImageDataset.value_range`.

    Returns:
        A loaded image in mode RGB.

    Raises:
        UnreadableImageError: If the file is missing, empty, truncated, no image, has no pixels, or has more pixels
            than Pillow's decompression bomb limit (twice `PIL.Image.MAX_IMAGE_PIXELS`, or what the environment's
            `SYNCO_HUB_MAX_PIXELS` says).
        ValueError: If that variable is no number.
    """
    name = name or (f"image of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source))
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise UnreadableImageError(name, error.strerror or str(error)) from error
    if not data:
        raise UnreadableImageError(name, "the file is empty")
    _raise_pixel_limit()
    try:
        with _open(data) as image:
            # In one piece: Pillow would hand the decoder 64 kB at a time.
            image.decodermaxblock = len(data)  # type: ignore[attr-defined]
            image.load()
            if 0 in image.size:
                raise UnreadableImageError(name, f"it has no pixels: {image.width} x {image.height}")
            return _rgb(_turn_upright(image), data, value_range)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnreadableImageError(
            name,
            f"it has more than {limit:,} pixels, the limit that guards against a decompression bomb; for images that "
            f"you trust set the environment variable {LIMIT_VARIABLE} to a higher number",
        ) from error
    except UnidentifiedImageError as error:
        known = (what for beginning, what in _NO_IMAGES if beginning.match(data))
        raise UnreadableImageError(name, next(known, "the format is unknown or the header is damaged")) from error
    except (MemoryError, UnreadableImageError):
        raise
    except Exception as error:
        # Pillow's readers answer damaged files with OSError, SyntaxError, struct.error, zlib.error and more.
        raise UnreadableImageError(name, f"{type(error).__name__}: {error}") from error


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        register_plugins()
        return Image.open(io.BytesIO(data))


def decode_pixels(
    source: bytes | str | os.PathLike[str], name: str | None = None, value_range: ValueRange | None = None
) -> npt.NDArray[np.uint8]:
    """Decodes to the pixels of `decode_rgb` (height, width, 3), most JPEG files in three quarters of its time.

    Whole JPEG files of one scan, in colour, without camera data go to OpenCV, whose decoder gives the same bits
    straight into an array. All others go to `decode_rgb`: OpenCV would make up the rest of a damaged file.
    """
    if isinstance(source, bytes):
        data = source
    else:
        name = name or os.fspath(source)
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise UnreadableImageError(name, error.strerror or str(error)) from error
    pixels = _decode_by_opencv(data) if _is_whole_jpeg(data) else None
    return np.array(decode_rgb(data, name, value_range)) if pixels is None else pixels


def _is_whole_jpeg(data: bytes) -> bool:
    """Whether a file is one JPEG scan from start to end with no marker astray in it."""
    if not data.startswith(b"\xff\xd8"):
        return False
    place = 2
    while data[place : place + 1] == b"\xff":
        marker, length = data[place : place + 2], int.from_bytes(data[place + 2 : place + 4], "big")
        place += 2 + length
        if marker == _START_OF_SCAN:
            found = _MARKER.search(data, place)
            return found is not None and found.end() == len(data) and data.endswith(_END_OF_IMAGE)
    return False


def _decode_by_opencv(data: bytes) -> npt.NDArray[np.uint8] | None:
    """None where the file is not for it."""
    try:
        header = Image.open(io.BytesIO(data))  # reads no pixels, and refuses decompression bombs
        if header.format != "JPEG" or header.mode != "RGB" or "exif" in header.info:
            return None
        cv2 = opencv()
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        pixels: npt.NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except MemoryError:
        raise
    except Exception:
        # Whatever is wrong with the file, `decode_rgb` finds it and says it in words.
        return None
    return pixels if pixels is not None and pixels.shape[1::-1] == header.size else None


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged camera data is worth no line per image
            ImageOps.exif_transpose(image, in_place=True)
    except Exception:
        # The pixels are decoded already: damaged camera data (as in some ImageNet files) must not cost the image.
        return image
    return image


def _rgb(image: Image.Image, data: bytes, value_range: ValueRange | None) -> Image.Image:
    if image.mode in WIDE_MODES:
        values = read_wide_values(image)
        chosen = _choose_range(Extent.of(values, image.mode == "F"), image, data, value_range)
        return Image.fromarray(chosen.to_gray(values)).convert("RGB")
    if has_wide_colours(image, data) and (colours := _scale_wide_colours(image, data, value_range)) is not None:
        image = colours
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if image.readonly else image
    if image.has_transparency_data:
        translucent = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, translucent).convert("RGB")
    return image.convert("RGB")


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as `decode_rgb` gives it; the one that is given stays as it is."""
    return _rgb(_turn_upright(image.copy()), b"", None)


def _choose_range(extent: Extent, image: Image.Image, data: bytes, given: ValueRange | None) -> ValueRange:
    """What the file states comes before what was measured over others; what its own values go beyond says nothing."""
    if given is not None and given.is_of_each:
        return choose_range(max(extent.lowest, 0.0), extent.highest, extent.is_float, alone=True)
    stated = read_tagged_range(image, data)
    if given is not None and given.is_given:
        return given
    if stated is not None and stated.low <= extent.lowest and extent.highest <= stated.high:
        return stated
    return given or choose_range(extent.lowest, extent.highest, extent.is_float, alone=True)


def _scale_wide_colours(image: Image.Image, data: bytes, value_range: ValueRange | None) -> Image.Image | None:
    """Colours that use some of their 16 bits; None where Pillow's higher 8 bits are right."""
    values = _read_wide_colours(data)
    if values is None or values.shape[1::-1] != image.size or values.shape[2] != len(image.getbands()):
        return None
    chosen = _choose_range(Extent.of(values[..., :3], False), image, data, value_range)
    if chosen.is_usual:
        return None
    levels = chosen.to_gray(values)
    if image.mode == "RGBA":
        levels[..., 3] = np.asarray(image)[..., 3]
    return Image.fromarray(levels)


def _read_wide_colours(data: bytes) -> npt.NDArray[np.float64] | None:
    """Shape: (height, width, 3 or 4); None where OpenCV does not read 16 bits."""
    cv2 = opencv()
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 3:
        return None
    order = [2, 1, 0, 3][: stored.shape[2]]
    values: npt.NDArray[np.float64] = stored[..., order].astype(np.float64)
    return values


def measure_extent(data: bytes) -> Extent | None:
    """Lowest and highest value of a file of more than 8 bits that does not state them; None for any other file."""
    if not may_be_wide(data):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            is_gray = image.mode in WIDE_MODES
            values = read_wide_values(image) if is_gray else _read_wide_colours(data)
            if values is None:
                return None
            found = Extent.of(values if is_gray else values[..., :3], image.mode == "F")
            stated = read_tagged_range(image, data)
    except Exception:
        return None  # whatever is wrong with it is said when it is read
    is_stated = stated is not None and stated.low <= found.lowest and found.highest <= stated.high
    return None if is_stated else found
