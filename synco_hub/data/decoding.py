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
            than Pillow's decompression bomb limit (twice `PIL.Image.MAX_IMAGE_PIXELS`).
    """
    name = name or (f"image of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source))
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise UnreadableImageError(name, error.strerror or str(error)) from error
    if not data:
        raise UnreadableImageError(name, "the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            # In one piece: Pillow would hand the decoder 64 kB at a time.
            image.decodermaxblock = len(data)  # type: ignore[attr-defined]
            image.load()
            if 0 in image.size:
                raise UnreadableImageError(name, f"it has no pixels: {image.width} x {image.height}")
            return _rgb(_turn_upright(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(name, f"decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "the format is unknown or the header is damaged") from error
    except (MemoryError, UnreadableImageError):
        raise
    except Exception as error:
        # Pillow's readers answer damaged files with OSError, SyntaxError, struct.error, zlib.error and more.
        raise UnreadableImageError(name, f"{type(error).__name__}: {error}") from error


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
