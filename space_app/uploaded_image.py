"""The picture a visitor gives, as the path of its file: reading it is left to the project's own decoder."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from synco_hub.data import UnreadableImageError, decode_rgb

LARGEST_UPLOAD_BYTES = 20 * 1024**2
# More than most cameras give, and 200 MB in memory. Pillow's own limit is three times as high.
LARGEST_MEGAPIXELS = 64


def image_input(**settings: Any) -> Any:
    """An image input that hands over the uploaded file unread.

    Gradio's own reading answers a damaged file with a stack trace and clips 16-bit pictures. A subclass would be the
    natural way, but gradio writes a stub file beside the source of every subclass of a component.

    Args:
        **settings: Arguments of ``gr.Image``.

    Returns:
        An input whose value is the path of the upload in the app's own temporary folder; gradio checks that it lies
        there.
    """
    component: Any = gr.Image(type="filepath", **settings)
    component.preprocess = _path
    return component


def _path(payload: Any) -> str | None:
    return None if payload is None else payload.path


def read_upload(path: str | None) -> bytes:
    """The bytes of an upload.

    Args:
        path: What an :func:`image_input` gave.

    Raises:
        ValueError: If there is none, or it is too large.
    """
    if path is None:
        raise ValueError("No picture yet: upload one, take one, or choose an example.")
    try:
        size = Path(path).stat().st_size
    except OSError:
        raise ValueError("The picture was deleted meanwhile, as all uploads are: give it again.") from None
    if size > LARGEST_UPLOAD_BYTES:
        raise ValueError(
            f"The file has {size / 1024**2:.1f} MB, the limit is {LARGEST_UPLOAD_BYTES / 1024**2:.0f} MB: "
            "make it smaller."
        )
    return Path(path).read_bytes()


def decoded(data: bytes) -> Image.Image:
    """The picture in a file, RGB and upright.

    Args:
        data: Its bytes.

    Raises:
        ValueError: If it is no picture that can be read, or has too many pixels.
    """
    _check_pixels(data)
    try:
        return decode_rgb(data, name="your picture")
    except UnreadableImageError as error:
        raise ValueError(f"This is no picture that can be read ({error.reason}). Give a JPEG, PNG or WebP.") from None


def _check_pixels(data: bytes) -> None:
    """Read no more than the header; what is no picture is left to the decoder to explain."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
    except Exception:
        return
    if width * height > LARGEST_MEGAPIXELS * 1e6:
        raise ValueError(
            f"The picture has {width}x{height} pixels, the limit is {LARGEST_MEGAPIXELS} megapixels: make it smaller."
        )
