"""From the bytes of any image file to RGB, or to one clear error."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_HIGHEST_16_BIT = 65535.0


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
            return _rgb(_upright(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(name, f"decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "the format is unknown or the header is damaged") from error
    except (MemoryError, UnreadableImageError):
        raise
    except Exception as error:
        # Pillow's readers answer damaged files with OSError, SyntaxError, struct.error, zlib.error and more.
        raise UnreadableImageError(name, f"{type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
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
