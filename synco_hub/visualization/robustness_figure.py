"""Accuracy against severity and against ε, side by side, with one legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which every kind of colour vision tells apart; markers and dashes say the same in grey.
_STYLES = (
    ("#000000", "o", "-"),
    ("#0072B2", "s", "-"),
    ("#D55E00", "^", "-"),
    ("#009E73", "D", "-"),
    ("#CC79A7", "v", "-"),
    ("#E69F00", "P", "--"),
    ("#56B4E9", "X", "--"),
)
_CHANCE_COLOUR = "#777777"
_FONT_POINTS = 8


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        name: In the legend.
        places: Severities, or ε in 1/255.
        accuracies: In percent, one a place.
    """

    name: str
    places: Sequence[float]
    accuracies: Sequence[float]


def robustness_figure(
    severity: Sequence[Curve], epsilon: Sequence[Curve], chance: float, title: str, note: str = ""
) -> Figure:
    """Draw both panels.

    Args:
        severity: Lines of the left panel.
        epsilon: Lines of the right panel; a name that is on the left too keeps its colour.
        chance: Accuracy of guessing in percent, a dotted line.
        title: Stands above.
        note: Stands below the panels.

    Returns:
        A figure; see :func:`synco_hub.visualization.figures.save_figure`.

    Raises:
        ValueError: If a curve has other numbers of places and accuracies, or there are more than seven.
    """
    names = list(dict.fromkeys(curve.name for curve in (*severity, *epsilon)))
    if len(names) > len(_STYLES):
        raise ValueError(f"{len(names)} curves: {len(_STYLES)} can be told apart; draw their means")
    styles = dict(zip(names, _STYLES, strict=False))
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, severity, styles, chance)
    _draw(right, epsilon, styles, chance)
    left.set_xlabel("severity of the corruption (0: clean)", fontsize=_FONT_POINTS)
    right.set_xlabel("ε of the attack, in 1/255 (0: clean)", fontsize=_FONT_POINTS)
    left.set_ylabel("top-1 accuracy (%)", fontsize=_FONT_POINTS)
    left.set_ylim(0, 100)
    figure.suptitle(title, fontsize=_FONT_POINTS + 1)
    handles: dict[str, Any] = {}
    for axes in (left, right):
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=4,
        fontsize=_FONT_POINTS,
        title=note or None,
    ).get_title().set_fontsize(_FONT_POINTS - 1)
    return figure


def _draw(axes: Axes, curves: Sequence[Curve], styles: Mapping[str, tuple[str, str, str]], chance: float) -> None:
    for curve in curves:
        if len(curve.places) != len(curve.accuracies):
            raise ValueError(
                f"{curve.name}: {len(curve.places)} places and {len(curve.accuracies)} accuracies; give one each"
            )
        colour, marker, dashes = styles[curve.name]
        axes.plot(
            curve.places,
            curve.accuracies,
            color=colour,
            marker=marker,
            linestyle=dashes,
            markersize=4,
            label=curve.name,
        )
    axes.axhline(chance, color=_CHANCE_COLOUR, linestyle=":", linewidth=1, label="chance")
    axes.tick_params(labelsize=_FONT_POINTS)
    axes.grid(alpha=0.3)
