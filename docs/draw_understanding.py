"""The pictures of the site's section Understand, drawn by the package's own functions.

Run: python docs/draw_understanding.py --output docs/pictures
Takes seconds. The sphere is that of three numbers, where the method's has 256.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from synco_hub.atomic_write import atomic_write
from trainers import SyntheticNegatives
from trainers.schedules import learning_rate_factor, synthetic_epochs, target_momentum

# Steps of the paper, a hundredth, would not be seen on a sphere of three numbers.
SHOWN_STEP = 0.12
EPOCHS, WARMUP_EPOCHS = 300, 40
TITLES = {
    "interpolation": "1 interpolation: αq + (1 − α)n",
    "extrapolation": "2 extrapolation: q + β(n − q)",
    "mixup": "3 mixup: γn + (1 − γ)n′",
    "noise_injection": "4 noise: n + σε",
    "gradient_perturbation": "5 gradient: n + δq",
    "adversarial_perturbation": "6 adversarial: n + η·sign(q)",
}
_QUERY, _HARD, _EASY, _MADE = "#c2185b", "#1f3b73", "#b8bfca", "#e07b00"


def draw_queue(num: int = 160, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """A query and a queue of unit vectors, of which a dozen lie near the query."""
    generator = torch.Generator().manual_seed(seed)
    query = F.normalize(torch.tensor([[0.45, 0.35, 0.82]]), dim=1)
    near = query + 0.45 * torch.randn(12, 3, generator=generator)
    queue = torch.cat([near, torch.randn(num - len(near), 3, generator=generator)])
    return query, F.normalize(queue, dim=1)


def sample_for_sphere(query: torch.Tensor, queue: torch.Tensor, num: int = 40) -> dict[str, torch.Tensor]:
    """Synthetic negatives of each kind, made by `SyntheticNegatives.sample` from the ten hardest."""
    numbers: dict[str, Any] = {"noise_std": SHOWN_STEP, "gradient_step": SHOWN_STEP, "adversarial_step": SHOWN_STEP}
    numbers |= {f"num_{kind}": num for kind in TITLES}
    module = SyntheticNegatives(num_hard_negatives=10, **numbers)
    return {kind: made[0] for kind, made in module.sample(query, queue, torch.Generator().manual_seed(0)).items()}


def draw_sphere() -> Figure:
    """A quarter of six spheres, seen from outside; what lies behind is left out."""
    query, queue = draw_queue()
    hardest = (queue @ query[0]).topk(10).indices
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    for axes, (kind, made) in zip(figure.subplots(2, 3).flat, sample_for_sphere(query, queue).items(), strict=True):
        axes.add_patch(matplotlib.patches.Circle((0, 0), 1, facecolor="#f4f6fa", edgecolor="#8a93a3", linewidth=0.8))
        for points, colour, size, label in (
            (queue, _EASY, 14, "negatives of the queue"),
            (queue[hardest], _HARD, 42, "the hardest of them, n"),
            (made, _MADE, 18, "synthetic negatives"),
        ):
            seen = _project(points)
            axes.scatter(*seen.T, s=size, color=colour, label=label, linewidths=0)
        axes.scatter(*_project(query).T, s=170, marker="*", color=_QUERY, label="query q")
        axes.set(title=TITLES[kind], xlim=(-0.3, 1.03), ylim=(-0.3, 1.03), aspect="equal")
        axes.title.set_fontsize(10)
        axes.set_axis_off()
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_window() -> Figure:
    """When synthetic negatives are made, beside learning rate and momentum of a run of 300 epochs."""
    window = synthetic_epochs(EPOCHS)
    epochs = range(EPOCHS + 1)
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    rates = [learning_rate_factor(epoch, EPOCHS, WARMUP_EPOCHS) for epoch in epochs]
    momenta = [target_momentum(epoch, EPOCHS) for epoch in epochs]
    for axes, values, title in (
        (left, rates, "Share of the peak learning rate"),
        (right, momenta, "Momentum of the target network"),
    ):
        axes.axvspan(window.start, window.stop, color=_MADE, alpha=0.18, linewidth=0)
        axes.plot(epochs, values, color=_HARD)
        axes.set(xlabel="epoch", xlim=(0, EPOCHS), title=title)
        axes.title.set_fontsize(10)
    left.text((window.start + window.stop) / 2, 0.06, "synthetic negatives are made", ha="center", fontsize=9)
    return figure


def _project(points: torch.Tensor) -> npt.NDArray[np.float64]:
    """Across and up of the points on the visible half."""
    return points[points[:, 2] > 0][:, :2].double().numpy()


def save(figure: Figure, path: Path) -> Path:
    """An SVG that is the same for the same numbers."""
    with (
        atomic_write(path) as unfinished,
        matplotlib.rc_context({"svg.hashsalt": "synco-hub", "svg.fonttype": "none"}),
    ):
        figure.savefig(unfinished, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"))
    output = parser.parse_args(arguments).output
    output.mkdir(parents=True, exist_ok=True)
    save(draw_sphere(), output / "synthetic-negatives.svg")
    save(draw_window(), output / "synthesis-window.svg")


if __name__ == "__main__":
    main()
