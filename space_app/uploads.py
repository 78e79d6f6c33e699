"""Visitors' pictures: how they come in, are read and decoded, how answers are handed out, and when both are deleted.

Also the example pictures that a visitor may choose instead.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from space_app.panels import to_image
from synco_hub.atomic_write import atomic_write
from synco_hub.data import UnreadableImageError, decode_rgb
from synco_hub.data.fractals.drawing import Nuisance, fractal_code, render_fractals
from synco_hub.visualization.overlay import FloatArray

logger = logging.getLogger(__name__)

LARGEST_UPLOAD_BYTES = 20 * 1024**2
# More than most cameras give, and 200 MB in memory. Pillow's own limit is three times as high.
LARGEST_MEGAPIXELS = 64

EXAMPLE_SIDE = 256
_EXAMPLE_CLASSES = 5
_EXAMPLE_INSTANCES = (3, 11)
# Smaller than in training and always upright, so that an object stands on a ground.
_EXAMPLE_NUISANCE = Nuisance(fill=(0.5, 0.72), tilt_degrees=10.0, dark_probability=0.5)


# Pictures that come in


def image_input(**settings: Any) -> Any:
    """A ``gr.Image`` whose value is the path of the uploaded file, unread; gradio checks that it is one of its own.

    Gradio's own reading answers a damaged file with a stack trace and clips 16-bit pictures. A subclass would be the
    natural way, but gradio writes a stub file beside the source of every subclass of a component.
    """
    component: Any = gr.Image(type="filepath", **settings)
    component.preprocess = _path
    return component


def _path(payload: Any) -> str | None:
    return None if payload is None else payload.path


def read_upload(path: str | None) -> bytes:
    """The bytes of an upload; a ValueError if there is none, or it is too large."""
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


def decode_upload(data: bytes) -> Image.Image:
    """The picture in a file, RGB and upright; a ValueError if it cannot be read, or has too many pixels."""
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


# Examples, which need no network and no licence: fractals, drawn by this project's own code


def draw_examples(folder: Path) -> dict[str, Path]:
    """Write the example pictures, the same ones each time; the path of each by its caption."""
    examples = {}
    for class_index in range(_EXAMPLE_CLASSES):
        name = fractal_code(class_index).name.replace("_", " ")
        pictures = render_fractals(class_index, _EXAMPLE_INSTANCES, EXAMPLE_SIDE, _EXAMPLE_NUISANCE)
        for number, pixels in enumerate(pictures, start=1):
            path = folder / f"{name.replace(' ', '_')}_{number}.png"
            Image.fromarray(pixels).save(path)
            examples[f"{name} {number}"] = path
    return examples


# Pictures that go out


def save_answer(picture: FloatArray, folder: Path) -> str:
    """Write a picture, values (height, width, 3) in [0, 1], as WebP under the name that its content gives it.

    gradio's own writer opens such a file in place, so a visitor whose download has begun gets a broken answer when
    another visitor's equal picture is written at that moment (seen with gradio 6.31). Here the file is renamed into
    its place: readers of the earlier one keep it, and its age, by which it is deleted, starts anew.
    """
    stream = io.BytesIO()
    to_image(picture).save(stream, "webp")
    path = folder / hashlib.sha256(stream.getvalue()).hexdigest() / "image.webp"
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(stream.getvalue())
    return str(path)


# Both are deleted when they are old. gradio's own `delete_cache` walks through sets that visitors' uploads grow at the
# same moment, and its task ends for good with "Set changed size during iteration" (seen in gradio 6.31); here the
# folder itself is the list.


def delete_expired(folder: Path, seconds: float, kept: Collection[Path] = ()) -> int:
    """Delete the files below a folder that were last written or handed out too long ago; how many that were."""
    oldest, deleted = time.time() - seconds, 0
    for path in folder.rglob("*"):
        try:
            # The time of the last change of the entry: a file that is handed out again is touched.
            if path.is_dir() or path in kept or path.lstat().st_ctime > oldest:
                continue
            path.unlink()
            deleted += 1
        except FileNotFoundError:
            continue  # renamed or deleted meanwhile
        except OSError:
            logger.exception("could not delete %s", path.name)
    return deleted


def start_deleting(folder: Path, seconds: float, every: float, kept: Collection[Path] = ()) -> threading.Thread:
    """Delete expired files every so many seconds, in a thread that ends with the folder or the process."""
    kept = frozenset(kept)

    def delete_repeatedly() -> None:
        while folder.is_dir():
            try:
                delete_expired(folder, seconds, kept)
            except OSError:
                logger.exception("could not look through the uploads")  # the next time may succeed
            time.sleep(every)

    thread = threading.Thread(target=delete_repeatedly, name="expired-files", daemon=True)
    thread.start()
    return thread
