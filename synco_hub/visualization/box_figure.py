"""Images with a found box over the annotated ones, in a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from synco_hub.visualization.overlay import as_rgb

_PANEL_INCHES = 1.6
_TITLE_INCHES = 0.18
_FONT_POINTS = 8
# Vermilion and sky blue, apart for every kind of colour vision; solid and dashed, apart in grey.
_FOUND, _ANNOTATED = "#d55e00", "#56b4e9"


@dataclass(frozen=True)
class BoxedPicture:
    """One panel.

    Attributes:
        image: RGB.
        found: Left, top, right, bottom in pixels. Shape: (4,).
        annotated: Shape: (boxes, 4).
        title: Above the panel.
    """

    image: Image.Image
    found: Tensor
    annotated: Tensor
    title: str = ""


def box_figure(pictures: Sequence[BoxedPicture], columns: int = 4, title: str | None = None) -> Figure:
    """Draw pictures with their boxes.

    Args:
        pictures: At least one.
        columns: Panels a row.
        title: Above the figure.

    Returns:
        A figure; see :func:`synco_hub.visualization.figure.save_figure`.

    Raises:
        ValueError: If there is no picture or no column.
    """
    if not pictures or columns < 1:
        raise ValueError(f"{len(pictures)} pictures in {columns} columns: at least one of each is needed")
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    tallest = max(picture.image.height / picture.image.width for picture in pictures)
    height = _PANEL_INCHES * min(max(tallest, 0.5), 1.5) + _TITLE_INCHES
    figure = Figure(figsize=(_PANEL_INCHES * columns, height * rows + 3 * _TITLE_INCHES), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, picture in zip(axes, pictures, strict=False):
        axis.imshow(as_rgb(picture.image), interpolation="nearest")
        for box in picture.annotated.tolist():
            axis.add_patch(_rectangle(box, _ANNOTATED, "--"))
        axis.add_patch(_rectangle(picture.found.tolist(), _FOUND, "-"))
        axis.set_title(picture.title, fontsize=_FONT_POINTS - 1, pad=2)
    lines = [
        Line2D([], [], color=_FOUND, linestyle="-", label="found"),
        Line2D([], [], color=_ANNOTATED, linestyle="--", label="annotated"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=_FONT_POINTS, frameon=False)
    if title:
        figure.suptitle(title, fontsize=_FONT_POINTS + 1)
    return figure


def _rectangle(box: Sequence[float], colour: str, style: str) -> Rectangle:
    left, top, right, bottom = box
    # Pixel 0 is drawn from -0.5 to 0.5.
    return Rectangle(
        (left - 0.5, top - 0.5),
        right - left,
        bottom - top,
        fill=False,
        edgecolor=colour,
        linestyle=style,
        linewidth=1.2,
    )
