"""What the page shows: its fixed words, and pictures side by side as HTML with real alternative texts and captions."""

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

INTRODUCTION = """
# What does the network look at?
Self-supervised vision transformers side by side: SynCo-v2, MoBY, BYOL, and any other from the Hub.
"""

SHIPPED_NOTICE = (
    "**The models on offer are the small ones that ship with the package.** They were trained on drawn fractals of 32 "
    "pixels and have never seen a photograph. For one that has, pretrain it on your pictures (`synco-hub pretrain`) "
    "and name it by `synco-hub space --models`, or type a public Hub id such as `facebook/dino-vits16`."
)

ABOUT_TEXT = """
### Method
**SynCo-v2** pretrains vision transformers without labels: an online network learns to find, among the target
network's outputs, the one that shows the same picture. Beside a queue of real negatives it meets six kinds of
*synthetic hard negatives*, made from those it confuses most easily. **MoBY** is the same without synthetic negatives,
**BYOL** without any negatives.

### What the maps mean
An attention map shows where the last block of a vision transformer reads from; it is no proof of what the network
*uses*. Grad-CAM and saliency show what moves one number: the score of the predicted class where the checkpoint has a
classifier, else the norm of its feature; the caption says which. Every map is scaled to its own maximum, so compare
shapes between models, not brightness.

### Limits
The example pictures are fractals drawn by this project's own code. Small checkpoints are trained on such fractals at
32 pixels and know nothing of photographs. Models trained on web pictures carry the biases of these pictures.

### Your pictures
They are read in memory and in a temporary folder of this app, and deleted after ten minutes; nothing is kept or sent
on. Uploads end at 20 MB.

### Licence
This app and the checkpoints that the project trains itself: Apache-2.0. The authors' released checkpoints: their
LICENSE file says MIT, their README CC-BY-NC-4.0. Models you name by Hub id: see their cards.
"""

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


def to_image(picture: FloatArray) -> Image.Image:
    """Values (height, width, 3) in [0, 1] as an 8-bit picture."""
    return Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))


def render_panels(panels: Sequence[Panel], clickable: bool = False, small: bool = False) -> str:
    """The panels as figures in a row, every text escaped; a click on a clickable picture chooses the patch there."""
    classes = "panels" + " clickable" * clickable + " small" * small
    return f'<div class="{classes}">{"".join(map(_render_figure, panels))}</div>'


def render_message(text: str, problem: bool = False) -> str:
    """A line of text in place of panels; a problem is read out at once by screen readers."""
    kind, role = ("empty problem", "alert") if problem else ("empty", "status")
    return f'<p class="{kind}" role="{role}">{escape(text)}</p>'


def render_examples(pictures: Mapping[str, Path]) -> str:
    """Picture files as buttons, each with its name as `data-name`."""
    buttons = []
    for name, path in pictures.items():
        with Image.open(path) as picture:
            picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
            small = _render_image(picture.convert("RGB"), name)
        buttons.append(f'<button type="button" data-name="{escape(name, quote=True)}">{small}</button>')
    return f'<h4>Examples</h4><div class="choice" role="group" aria-label="Examples">{"".join(buttons)}</div>'


def _render_figure(panel: Panel) -> str:
    words = f"<strong>{escape(panel.title)}</strong><span>{escape(panel.description)}</span>"
    if panel.picture is None:
        blank = '<div class="blank" aria-hidden="true"></div>' if panel.without == "waiting" else ""
        role = "alert" if panel.without == "problem" else "status"
        return f'<figure class="{panel.without}" role="{role}">{blank}<figcaption>{words}</figcaption></figure>'
    image = _render_image(to_image(panel.picture), f"{panel.title}: {panel.description}")
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def _render_image(picture: Image.Image, alternative: str) -> str:
    stream = io.BytesIO()
    picture.save(stream, "webp", quality=_WEBP_QUALITY, method=0)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/webp;base64,{data}" alt="{escape(alternative, quote=True)}" draggable="false">'
