"""One figure for an image: the input, its [CLS] attention, its patch self-attention, and every head.

Source: layout after paper Figures 6 to 10, with the heads added.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from synco_hub.atomic_write import atomic_write
from synco_hub.visualization.attention_maps import AttentionMaps
from synco_hub.visualization.overlay import as_rgb, overlay

_PANEL_INCHES = 1.55
_BAR_INCHES = 0.14
_MOST_COLUMNS = 6
_FORMATS = (".png", ".pdf")
_FONT_POINTS = 8


@dataclass(frozen=True)
class FigureStyle:
    """How maps are drawn.

    Attributes:
        colour_map: Colour map of matplotlib; the default reads in grey and for every kind of colour vision.
        strength: Share of the map's colour over the image, from 0 to 1; 1 shows the map alone.
        mass: Share of each map's attention that is shown, in (0, 1]; None for all. The paper applies a threshold.
        title: Line above the panels.
    """

    colour_map: str = "viridis"
    strength: float = 1.0
    mass: float | None = None
    title: str | None = None


def attention_figure(
    image: Image.Image | Tensor | NDArray[Any], maps: AttentionMaps, style: FigureStyle | None = None
) -> Figure:
    """Draw an image and its attention maps.

    Every map is drawn relative to its own maximum, for which the one colour bar stands. pyplot and its global state
    are not touched.

    Args:
        image: What the model saw, see :func:`synco_hub.visualization.overlay.as_rgb`.
        maps: Maps of this one image, on the patch grid.
        style: Colours, strength, threshold, title.

    Returns:
        A figure; see :func:`save_figure`.

    Raises:
        ValueError: If maps hold more than one image, or a style setting is out of range.
    """
    style = style or FigureStyle()
    if len(maps) != 1:
        raise ValueError(f"maps hold {len(maps)} images, a figure shows one: pass maps[i]")
    picture = as_rgb(image)
    shown = maps if style.mass is None else maps.thresholded(style.mass)
    shown = shown.upsampled((picture.shape[0], picture.shape[1]))
    panels = {"[CLS] attention": shown.cls[0], "Patch self-attention": shown.patch[0]}
    # A single head is the [CLS] map again.
    several = list(shown.heads[0]) if shown.heads.shape[1] > 1 else []
    heads = {f"Head {number}": head for number, head in enumerate(several, start=1)}
    figure, axes = _panel_grid(3, len(heads), picture.shape[0] / picture.shape[1])
    _draw(axes[0], "Input", picture)
    for axis, (name, panel) in zip(axes[1:], [*panels.items(), *heads.items()], strict=True):
        _draw(axis, name, overlay(picture, panel, style.strength, style.colour_map))
    scale = ScalarMappable(Normalize(0.0, 1.0), cmap=style.colour_map)
    bar = figure.colorbar(scale, ax=axes, pad=0.015, aspect=figure.get_figheight() / _BAR_INCHES)
    bar.set_label("Relative attention", fontsize=_FONT_POINTS)
    bar.ax.tick_params(labelsize=_FONT_POINTS)
    bar.outline.set_linewidth(0.4)
    if style.title:
        figure.suptitle(style.title, fontsize=_FONT_POINTS + 1)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 300) -> Path:
    """Write a figure as PNG or PDF, whole or not at all.

    Args:
        figure: What :func:`attention_figure` gave, or any other figure.
        path: Ends in .png or .pdf.
        dpi: Dots an inch, of a PNG and of the images inside a PDF.

    Returns:
        The path.

    Raises:
        ValueError: If the path ends otherwise.
    """
    if Path(path).suffix.lower() not in _FORMATS:
        raise ValueError(f"{str(path)!r} does not end in {' or '.join(_FORMATS)}: choose one of these formats")
    # Type 42 embeds outlines as they are: publishers refuse matplotlib's default, Type 3.
    with atomic_write(path) as temporary, matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(temporary, dpi=dpi)
    return Path(path)


def _panel_grid(wide: int, heads: int, height_over_width: float) -> tuple[Figure, list[Axes]]:
    """A first row of wide panels and below it rows of heads; panels have the image's shape."""
    rows = math.ceil(heads / _MOST_COLUMNS)
    columns = max(wide, math.ceil(heads / rows) if rows else 0)
    panel_height = _PANEL_INCHES * height_over_width
    first_height = panel_height * columns / wide
    size = (_PANEL_INCHES * columns + 0.7, first_height + rows * panel_height + 0.3 * (rows + 1))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(1 + rows, wide * columns, height_ratios=[first_height, *[panel_height] * rows])
    axes = [figure.add_subplot(grid[0, index * columns : (index + 1) * columns]) for index in range(wide)]
    for index in range(heads):
        row, column = divmod(index, columns)
        axes.append(figure.add_subplot(grid[1 + row, column * wide : (column + 1) * wide]))
    return figure, axes


def _draw(axis: Axes, name: str, picture: NDArray[Any]) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(name, pad=3, fontsize=_FONT_POINTS)
    axis.set_axis_off()
