"""Pictures side by side as HTML: real alternative texts, captions, and a layout that folds on a narrow screen."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from synco_hub.visualization.overlay import FloatArray

_WEBP_QUALITY = 88
_THUMBNAIL_SIDE = 112


@dataclass(frozen=True)
class Panel:
    """One picture with its words.

    Attributes:
        title: Name of the model, or of what is shown.
        picture: Values in [0, 1], None where there is nothing to show. Shape: (height, width, 3).
        description: What is seen, in words, also the alternative text; or why nothing is.
        without: What a panel without a picture is: one that will come, a hint that this view does not fit, or a
            problem.
    """

    title: str
    picture: FloatArray | None
    description: str
    without: Literal["waiting", "hint", "problem"] = "hint"


def as_image(picture: FloatArray) -> Image.Image:
    """Values in [0, 1] as an 8-bit picture. Shape: (height, width, 3)."""
    return Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))


def panels_html(panels: Sequence[Panel], clickable: bool = False, small: bool = False) -> str:
    """The panels as figures in a row.

    Args:
        panels: From left to right.
        clickable: Whether a click on a picture means a place in it.
        small: Whether many small pictures shall stand in a row.

    Returns:
        HTML without any reference to a file; every text is escaped.
    """
    classes = "panels" + " clickable" * clickable + " small" * small
    return f'<div class="{classes}">{"".join(map(_figure, panels))}</div>'


def message_html(text: str, problem: bool = False) -> str:
    """A line of text in place of panels; a problem is read out at once by screen readers."""
    kind, role = ("empty problem", "alert") if problem else ("empty", "status")
    return f'<p class="{kind}" role="{role}">{escape(text)}</p>'


def choice_html(pictures: Mapping[str, Path]) -> str:
    """Pictures as buttons, each with its name as `data-name`.

    Args:
        pictures: File of each by its name.
    """
    buttons = []
    for name, path in pictures.items():
        with Image.open(path) as picture:
            picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
            small = _img(picture.convert("RGB"), name)
        buttons.append(f'<button type="button" data-name="{escape(name, quote=True)}">{small}</button>')
    return f'<h4>Examples</h4><div class="choice" role="group" aria-label="Examples">{"".join(buttons)}</div>'


def _figure(panel: Panel) -> str:
    words = f"<strong>{escape(panel.title)}</strong><span>{escape(panel.description)}</span>"
    if panel.picture is None:
        blank = '<div class="blank" aria-hidden="true"></div>' if panel.without == "waiting" else ""
        role = "alert" if panel.without == "problem" else "status"
        return f'<figure class="{panel.without}" role="{role}">{blank}<figcaption>{words}</figcaption></figure>'
    drawn = _img(as_image(panel.picture), f"{panel.title}: {panel.description}")
    return f"<figure>{drawn}<figcaption>{words}</figcaption></figure>"


def _img(picture: Image.Image, alternative: str) -> str:
    stream = io.BytesIO()
    picture.save(stream, "webp", quality=_WEBP_QUALITY, method=0)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/webp;base64,{data}" alt="{escape(alternative, quote=True)}" draggable="false">'
