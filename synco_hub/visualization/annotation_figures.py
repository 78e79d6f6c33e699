"""Figures of what was found in images beside what people marked: boxes, and masks of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from torch import Tensor

from synco_hub.data.davis import PALETTE
from synco_hub.visualization.figures import FONT_POINTS, wrap_title
from synco_hub.visualization.overlay import as_rgb

_BOX_PANEL_INCHES, _BOX_TITLE_INCHES = 1.6, 0.18
# Vermilion and sky blue, apart for every kind of colour vision; solid and dashed, apart in grey.
_FOUND, _ANNOTATED = "#d55e00", "#56b4e9"
# VOC's palette is told apart on so many classes; the grey of no class is in none of them.
_NO_CLASS, _NAMED_AT_MOST = (224, 224, 224), 21


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
    """Draw pictures with their boxes."""
    if not pictures or columns < 1:
        raise ValueError(f"{len(pictures)} pictures in {columns} columns: at least one of each is needed")
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    tallest = max(picture.image.height / picture.image.width for picture in pictures)
    height = _BOX_PANEL_INCHES * min(max(tallest, 0.5), 1.5) + _BOX_TITLE_INCHES
    figure = Figure(figsize=(_BOX_PANEL_INCHES * columns, height * rows + 3 * _BOX_TITLE_INCHES), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, picture in zip(axes, pictures, strict=False):
        axis.imshow(as_rgb(picture.image), interpolation="nearest")
        for box in picture.annotated.tolist():
            axis.add_patch(_rectangle(box, _ANNOTATED, "--"))
        axis.add_patch(_rectangle(picture.found.tolist(), _FOUND, "-"))
        axis.set_title(picture.title, fontsize=FONT_POINTS - 1, pad=2)
    lines = [
        Line2D([], [], color=_FOUND, linestyle="-", label="found"),
        Line2D([], [], color=_ANNOTATED, linestyle="--", label="annotated"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=FONT_POINTS, frameon=False)
    if title:
        figure.suptitle(wrap_title(title, figure.get_figwidth(), FONT_POINTS + 1), fontsize=FONT_POINTS + 1)
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


@dataclass(frozen=True)
class MaskColumn:
    """One column of a figure of masks.

    Attributes:
        title: Above it.
        masks: One a row, 255 for no class. Shape of each: (height, width).
    """

    title: str
    masks: Sequence[Tensor]


def mask_figure(images: Sequence[Image.Image], columns: Sequence[MaskColumn], class_names: Sequence[str]) -> Figure:
    """Draw images and, beside each, masks of its classes: the true one, and those of several models."""
    if not images or any(len(column.masks) != len(images) for column in columns):
        raise ValueError(f"{len(images)} images, and columns of {[len(each.masks) for each in columns]} masks")
    tallest = max(image.height / image.width for image in images)
    height = _BOX_PANEL_INCHES * min(max(tallest, 0.5), 1.5)
    size = (_BOX_PANEL_INCHES * (1 + len(columns)), height * len(images) + 4 * _BOX_TITLE_INCHES)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(images), 1 + len(columns), squeeze=False)
    colours = np.array([PALETTE[number % _NAMED_AT_MOST] for number in range(255)] + [_NO_CLASS], dtype=np.uint8)
    for axis in axes.ravel():
        axis.set_axis_off()
    for row, image in zip(axes, images, strict=True):
        row[0].imshow(as_rgb(image), interpolation="nearest")
    for position, column in enumerate(columns, start=1):
        for axis, mask in zip(axes[:, position], column.masks, strict=True):
            axis.imshow(colours[mask.cpu().numpy()], interpolation="nearest")
    for axis, title in zip(axes[0], ["Image", *(column.title for column in columns)], strict=True):
        axis.set_title(wrap_title(title, _BOX_PANEL_INCHES, FONT_POINTS - 1), fontsize=FONT_POINTS - 1, pad=2)
    shown = sorted({int(value) for column in columns for mask in column.masks for value in mask.unique()} - {255})
    if len(class_names) <= _NAMED_AT_MOST:
        handles = [Patch(color=f"#{bytes(PALETTE[number]).hex()}", label=class_names[number]) for number in shown]
        figure.legend(handles=handles, loc="outside lower center", ncols=2 * len(columns), fontsize=FONT_POINTS - 2)
    return figure
