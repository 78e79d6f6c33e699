"""The pictures that an endpoint answers with, as files that are whole whenever somebody reads them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from space_app.panels import as_image
from synco_hub.atomic_write import atomic_write
from synco_hub.visualization.overlay import FloatArray


def answered_picture(picture: FloatArray, folder: Path) -> str:
    """Write a picture under the name that its content gives it.

    gradio's own writer opens such a file in place, so a visitor whose download has begun gets a broken answer when
    another visitor's equal picture is written at that moment (seen with gradio 6.31). Here the file is renamed into
    its place: readers of the earlier one keep it, and its age, by which gradio deletes files, starts anew.

    Args:
        picture: Values in [0, 1]. Shape: (height, width, 3).
        folder: The cache folder of the component that answers; gradio serves what lies in it and deletes it in time.

    Returns:
        The path of the WebP file.
    """
    stream = io.BytesIO()
    as_image(picture).save(stream, "webp")
    path = folder / hashlib.sha256(stream.getvalue()).hexdigest() / "image.webp"
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(stream.getvalue())
    return str(path)
