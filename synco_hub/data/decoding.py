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


_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_HIGHEST_16_BIT = 65535.0
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


def decode_rgb(source: bytes | str | os.PathLike[str], name: str | None = None) -> Image.Image:
    """Decodes an image file of any mode to 8-bit RGB, upright.

    Transparent pixels show white. The orientation that a camera wrote into the file is applied. 16-bit gray is scaled
    to 8 bits, not clipped. CMYK, palette and 1-bit images are converted. Of an animation the first frame counts.

    Args:
        source: The encoded bytes, or the path of a file.
        name: How errors name the image; None takes the path, or says that bytes were given.

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
            return _rgb(_turn_upright(image))
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


def decode_pixels(source: bytes | str | os.PathLike[str], name: str | None = None) -> npt.NDArray[np.uint8]:
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
    return np.array(decode_rgb(data, name)) if pixels is None else pixels


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


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if image.readonly else image
    if image.mode in _WIDE_MODES:
        return _from_wide_values(image)
    if image.has_transparency_data:
        translucent = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, translucent).convert("RGB")
    return image.convert("RGB")


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as `decode_rgb` gives it; the one that is given stays as it is."""
    return _rgb(_turn_upright(image.copy()))


def _from_wide_values(image: Image.Image) -> Image.Image:
    """Scales 16-bit integers, 32-bit integers and floats to 8 bits, where Pillow's own conversion would clip."""
    values: npt.NDArray[np.float64] = np.asarray(image).astype(np.float64)
    values = np.where(np.isnan(values), 0.0, np.minimum(values, float(np.finfo(np.float32).max)))
    highest = float(values.max())
    if image.mode == "F":
        full_scale = next((scale for scale in (1.0, 255.0) if highest <= scale), highest)
    else:
        full_scale = max(_HIGHEST_16_BIT, highest)
    gray = np.clip(values / full_scale, 0, 1) * 255
    return Image.fromarray(np.rint(gray).astype(np.uint8)).convert("RGB")
