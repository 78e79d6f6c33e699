"""Rows of images, columns of methods: the layout of paper Figures 6 to 15."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from synco_hub.visualization.overlay import FloatArray

_PANEL_INCHES = 1.1
_BAR_INCHES = 0.12
_TITLE_INCHES = 0.42  # two lines of text and their distance to the panel
_FONT_POINTS = 8


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
        A figure; see :func:`synco_hub.visualization.figure.save_figure`.

    Raises:
        ValueError: If there is no picture, or the columns differ in length.
    """
    lengths = {len(column.pictures) for column in columns}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"columns hold {sorted(lengths)} pictures: each needs one for every row, at least one")
    rows = lengths.pop()
    height, width = columns[0].pictures[0].shape[:2]
    note_inches = 0.13 * len(note.splitlines()) if note else 0.0
    size = (
        _PANEL_INCHES * len(columns) + 0.7,
        (_PANEL_INCHES * height / width + 0.03) * rows + _TITLE_INCHES + note_inches,
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
        axes[0, position].set_title(f"{method}\n{column.title}", fontsize=_FONT_POINTS - 1, pad=3, loc="left")
        for axis, picture in zip(axes[:, position], column.pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
    scale = ScalarMappable(Normalize(0.0, 1.0), cmap=colour_map)
    bar = figure.colorbar(scale, ax=axes, pad=0.015, aspect=max(figure.get_figheight() / _BAR_INCHES, 5))
    bar.set_label("Relative value", fontsize=_FONT_POINTS)
    bar.ax.tick_params(labelsize=_FONT_POINTS)
    bar.outline.set_linewidth(0.4)
    if note:
        figure.supxlabel(note, fontsize=_FONT_POINTS - 2, x=0.01, ha="left")
    return figure
