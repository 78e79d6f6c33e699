"""Figures: one image with all its maps, images by methods in a grid, every kind of map by name.

Source: layouts after paper Figures 6 to 15, with the heads added.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable, Sequence
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
from torch import Tensor, nn

from synco_hub.atomic_write import atomic_write
from synco_hub.feature_pooling import find_feature_network
from synco_hub.visualization.attention_maps import (
    AttentionMaps,
    attention_maps,
    attention_rollout,
    mass_mask,
    upsample,
    window_attention,
)
from synco_hub.visualization.gradient_maps import gradient_maps
from synco_hub.visualization.overlay import FloatArray, PreparedImage, as_rgb, blended, overlay, relative_to_range
from synco_hub.visualization.recorded_attention import attends_in_windows
from synco_hub.visualization.token_maps import foreground_mask, principal_colours, token_map

_ATTENTION_PANEL_INCHES, _ATTENTION_BAR_INCHES = 1.55, 0.14
_GRID_PANEL_INCHES, _GRID_BAR_INCHES = 1.1, 0.12
_GRID_TITLE_INCHES = 0.42  # two lines of text and their distance to the panel
_MOST_COLUMNS = 6
_FORMATS = (".png", ".pdf")
FONT_POINTS = 8


@dataclass(frozen=True)
class FigureStyle:
    """How maps are drawn.

    Attributes:
        colour_map: Colour map of matplotlib; the default reads in grey and for every kind of colour vision.
        strength: Share of the map's colour over the image, from 0 to 1; 1 shows the map alone.
        mass: Share of each map's attention that is shown, in (0, 1]; None for all. The paper applies a threshold.
        title: Line above the panels.
        input_title: What the image's own panel is called.
    """

    colour_map: str = "viridis"
    strength: float = 1.0
    mass: float | None = None
    title: str | None = None
    input_title: str = "Input"


# What tells the two panels apart; both are means over the heads of the last block.
CLS_AND_PATCH = "[CLS] attention: where [CLS] looks. Patch self-attention: how much other patches look at a patch."


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
    _draw(axes[0], style.input_title, picture)
    for axis, (name, panel) in zip(axes[1:], [*panels.items(), *heads.items()], strict=True):
        _draw(axis, name, overlay(picture, panel, style.strength, style.colour_map))
    _draw_colour_bar(figure, axes, style.colour_map, "Relative attention", _ATTENTION_BAR_INCHES)
    width = figure.get_figwidth()
    if style.title:
        figure.suptitle(wrap_title(style.title, width, FONT_POINTS + 1), fontsize=FONT_POINTS + 1)
    figure.supxlabel(wrap_title(CLS_AND_PATCH, width, FONT_POINTS - 2), fontsize=FONT_POINTS - 2, x=0.01, ha="left")
    return figure


def wrap_title(text: str, inches: float, points: float) -> str:
    """Lines that are not wider than the figure."""
    # A character of matplotlib's font is 0.62 of its size wide at most, on the average of a line.
    characters = max(int(0.97 * inches / (0.62 * points / 72)), 10)
    return "\n".join(line for part in text.splitlines() for line in textwrap.wrap(part, characters))


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
    panel_height = _ATTENTION_PANEL_INCHES * height_over_width
    first_height = panel_height * columns / wide
    size = (_ATTENTION_PANEL_INCHES * columns + 0.7, first_height + rows * panel_height + 0.3 * (rows + 1))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(1 + rows, wide * columns, height_ratios=[first_height, *[panel_height] * rows])
    axes = [figure.add_subplot(grid[0, index * columns : (index + 1) * columns]) for index in range(wide)]
    for index in range(heads):
        row, column = divmod(index, columns)
        axes.append(figure.add_subplot(grid[1 + row, column * wide : (column + 1) * wide]))
    return figure, axes


def _draw(axis: Axes, name: str, picture: NDArray[Any]) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(name, pad=3, fontsize=FONT_POINTS)
    axis.set_axis_off()


def _draw_colour_bar(figure: Figure, axes: Any, colour_map: str, label: str, inches: float) -> None:
    scale = ScalarMappable(Normalize(0.0, 1.0), cmap=colour_map)
    bar = figure.colorbar(scale, ax=axes, pad=0.015, aspect=max(figure.get_figheight() / inches, 5))
    bar.set_label(label, fontsize=FONT_POINTS)
    bar.ax.tick_params(labelsize=FONT_POINTS)
    bar.outline.set_linewidth(0.4)


@dataclass(frozen=True)
class GridColumn:
    """One column of a grid.

    Attributes:
        method: Stands above all columns of one model; empty for the input.
        title: What the column shows.
        pictures: One a row, values in [0, 1]. Shape of each: (height, width, 3).
    """

    method: str
    title: str
    pictures: Sequence[FloatArray]


def grid_figure(columns: Sequence[GridColumn], colour_map: str = "viridis", note: str | None = None) -> Figure:
    """Draw columns side by side with one colour bar.

    Args:
        columns: From left to right, the same number of pictures in each; columns of one method stand together.
        colour_map: Of the colour bar: the one that the maps were drawn with.
        note: What stands below the panels, for example what a gradient is of.

    Returns:
        A figure; see :func:`save_figure`.

    Raises:
        ValueError: If there is no picture, or the columns differ in length.
    """
    lengths = {len(column.pictures) for column in columns}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"columns hold {sorted(lengths)} pictures: each needs one for every row, at least one")
    rows = lengths.pop()
    height, width = columns[0].pictures[0].shape[:2]
    figure_width = _GRID_PANEL_INCHES * len(columns) + 0.7
    note = wrap_title(note, figure_width, FONT_POINTS - 2) if note else None
    note_inches = 0.13 * len(note.splitlines()) if note else 0.0
    size = (
        figure_width,
        (_GRID_PANEL_INCHES * height / width + 0.03) * rows + _GRID_TITLE_INCHES + note_inches,
    )
    figure = Figure(figsize=size, layout="constrained")
    # The rest at the top is for what text reaches beyond its nominal height.
    rect = (0.0, 0.0, 1.0, 1.0 - 0.03 / size[1])
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0, rect=rect)  # type: ignore[union-attr,call-arg,unused-ignore]
    axes = figure.subplots(rows, len(columns), squeeze=False)
    previous = None
    for position, column in enumerate(columns):
        # The method is named once, above the first of its columns.
        method = column.method if column.method != previous else ""
        previous = column.method
        axes[0, position].set_title(f"{method}\n{column.title}", fontsize=FONT_POINTS - 1, pad=3, loc="left")
        for axis, picture in zip(axes[:, position], column.pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
    _draw_colour_bar(figure, axes, colour_map, "Relative value", _GRID_BAR_INCHES)
    if note:
        figure.supxlabel(note, fontsize=FONT_POINTS - 2, x=0.01, ha="left")
    return figure


@dataclass(frozen=True)
class MapKind:
    """One kind of map.

    Attributes:
        title: What stands above its column.
        compute: From a model and pixel values (1, 3, height, width) to a map (1, rows, columns), not negative, or to
            colours (1, rows, columns, 3).
        is_attention: Whether a share of its sum can be cut out.
    """

    title: str
    compute: Callable[[nn.Module, Tensor], Tensor]
    is_attention: bool = True


MAP_KINDS: dict[str, MapKind] = {
    "cls": MapKind("[CLS] attention", lambda model, pixels: attention_maps(model, pixels).cls),
    "patch": MapKind("Patch self-attention", lambda model, pixels: attention_maps(model, pixels).patch),
    "rollout": MapKind("Attention rollout", attention_rollout),
    "cam": MapKind("Grad-CAM", lambda model, pixels: gradient_maps(model, pixels).cam),
    "saliency": MapKind("Saliency", lambda model, pixels: relative_to_range(gradient_maps(model, pixels).saliency)),
    "windows": MapKind("Windowed attention", window_attention),
    "tokens": MapKind("Tokens (PCA)", lambda model, pixels: principal_colours(token_map(model, pixels)), False),
    "foreground": MapKind(
        "Foreground", lambda model, pixels: foreground_mask(token_map(model, pixels)).float(), False
    ),
}
# The name that people look for.
MAP_KINDS["pca"] = MAP_KINDS["tokens"]


def paper_kinds(model: nn.Module) -> list[str]:
    """What the paper shows of a model: Figures 6 to 10 of a ViT, Figures 11 to 15 of a Swin."""
    return ["cam", "saliency"] if attends_in_windows(find_feature_network(model)) else ["cls", "patch"]


def drawn_map(
    kind: str,
    model: nn.Module,
    prepared: PreparedImage,
    mass: float | None = None,
    strength: float = 1.0,
    colour_map: str = "viridis",
) -> FloatArray:
    """A map of one image by one model, in colour.

    Args:
        kind: A key of :data:`MAP_KINDS`.
        model: A ViT or Swin.
        prepared: The image.
        mass: Share of an attention or gradient map's sum that is shown; None for all.
        strength: Share of the map's colour over the image; 1 shows the map alone.
        colour_map: See :func:`synco_hub.visualization.overlay.overlay`.

    Returns:
        Values in [0, 1]. Shape: as ``prepared.shown``.

    Raises:
        ValueError: If the kind is unknown or does not fit the model.
    """
    if kind not in MAP_KINDS:
        raise ValueError(f"kind {kind!r} is unknown: choose among {', '.join(MAP_KINDS)}")
    maps = MAP_KINDS[kind].compute(model, prepared.pixel_values).float()
    size = (prepared.shown.shape[0], prepared.shown.shape[1])
    if maps.ndim == 4:
        colours = upsample(maps.permute(0, 3, 1, 2), size)[0].permute(1, 2, 0).cpu().numpy()
        return blended(prepared.shown, colours, strength)
    if mass is not None and MAP_KINDS[kind].is_attention:
        maps = maps * mass_mask(maps, mass)
    return overlay(prepared.shown, upsample(maps, size)[0], strength, colour_map)
