"""The picture of a run: loss, contrast accuracy, spread of the features, schedules, and k-NN where it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from synco_hub.atomic_write import atomic_write

CURVE_FILE = "training_curve.png"

# One panel a row: title, and the logged numbers it shows with the names that people read.
PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("loss", {"loss": "loss, both directions", "loss_of_guessing": "guessing, 2·ln(1 + negatives)"}),
    ("contrast accuracy", {"contrast_accuracy": "positive ranked first"}),
    ("feature standard deviation (0 is collapse)", {"feature_std": "online features"}),
    (
        "k-NN top-1 (%)",
        {
            "knn_top1_k10": "k = 10",
            "knn_top1_k20": "k = 20",
            "knn_keep_top1_k10": "domain to keep, k = 10",
            "knn_keep_top1_k20": "domain to keep, k = 20",
        },
    ),
    ("learning rate", {"learning_rate": "learning rate"}),
    ("target momentum", {"momentum": "momentum"}),
)


def series(history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values at which a number was logged."""
    found = [(float(entry["step"]), float(entry[name])) for entry in history if name in entry and "step" in entry]
    return [step for step, _ in found], [value for _, value in found]


def draw_training_curve(history: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw what was logged; panels without numbers are left out, steps with synthetic negatives are shaded."""
    panels = [(name, lines) for name, lines in PANELS if any(series(history, line)[0] for line in lines)]
    if not panels:
        raise ValueError("nothing was logged, so there is no curve: lower --logging-steps below the steps of the run.")
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(11, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(rows, 2, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.remove()
    before = "at the start" if series(history, "knn_keep_top1_k10")[0] else "untrained"
    for axis, (name, lines) in zip(axes, panels, strict=False):
        for line, label in lines.items():
            steps, values = series(history, line)
            if steps:
                drawn = axis.plot(steps, values, marker="." if len(steps) < 30 else None, label=label)[0]
                if steps[0] == 0:
                    axis.axhline(
                        values[0], color=drawn.get_color(), linestyle="--", linewidth=1, label=f"{label}, {before}"
                    )
        _shade_synthesis(axis, history)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3)
        if len(axis.lines) > 1 or axis.patches:
            # One dashed line stands for all: a legend as long as the panel hides it.
            shown = {
                f"dashed: {before}" if label.endswith(f", {before}") else label: handle
                for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
            }
            axis.legend(list(shown.values()), list(shown), fontsize=8)
    return figure


def _shade_synthesis(axis: Any, history: Sequence[Mapping[str, Any]]) -> None:
    steps, active = series(history, "synthetic_active")
    within = [step for step, flag in zip(steps, active, strict=True) if flag]
    if within:
        axis.axvspan(within[0], within[-1], alpha=0.08, color="tab:orange", label="with synthetic negatives")


def save_training_curve(history: Sequence[Mapping[str, Any]], title: str, path: Path) -> Path:
    """Write the picture as PNG, completely or not at all, and return its path."""
    with atomic_write(path) as temporary:
        draw_training_curve(history, title).savefig(temporary, dpi=110)
    return path
