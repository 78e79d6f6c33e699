"""Pictures side by side as HTML: real alternative texts, captions, and a layout that folds on a narrow screen."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from synco_hub.visualization.overlay import FloatArray

_WEBP_QUALITY = 88


@dataclass(frozen=True)
class Panel:
    """One picture with its words.

    Attributes:
        title: Name of the model, or of what is shown.
        picture: Values in [0, 1], None while there is nothing to show. Shape: (height, width, 3).
        description: What is seen, in words; also the alternative text.
    """

    title: str
    picture: FloatArray | None
    description: str


def as_image(picture: FloatArray) -> Image.Image:
    """Values in [0, 1] as an 8-bit picture. Shape: (height, width, 3)."""
    return Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))


def panels_html(panels: Sequence[Panel], clickable: bool = False) -> str:
    """The panels as figures in a row.

    Args:
        panels: From left to right.
        clickable: Whether a click on a picture means a place in it.

    Returns:
        HTML without any reference to a file; every text is escaped.
    """
    return f'<div class="panels{" clickable" if clickable else ""}">{"".join(map(_figure, panels))}</div>'


def message_html(text: str) -> str:
    """A line of text in place of panels."""
    return f'<p class="empty" role="status">{escape(text)}</p>'


def _figure(panel: Panel) -> str:
    words = f"<strong>{escape(panel.title)}</strong><span>{escape(panel.description)}</span>"
    if panel.picture is None:
        blank = '<div class="blank" aria-hidden="true"></div>'
        return f"<figure>{blank}<figcaption>{words}</figcaption></figure>"
    stream = io.BytesIO()
    as_image(panel.picture).save(stream, "webp", quality=_WEBP_QUALITY, method=0)
    data = base64.b64encode(stream.getvalue()).decode()
    alternative = escape(f"{panel.title}: {panel.description}", quote=True)
    return (
        f'<figure><img src="data:image/webp;base64,{data}" alt="{alternative}" draggable="false">'
        f"<figcaption>{words}</figcaption></figure>"
    )
