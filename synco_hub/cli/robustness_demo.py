"""`synco-hub robustness-demo`: a fractal classifier under corruptions and attacks, in minutes on two CPU cores.

Its table and its figure are made from the results that the commands it starts have written.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from synco_hub.atomic_write import atomic_write
from synco_hub.cli.demo import SETTINGS
from synco_hub.cli.evaluate import NULL_EXIT_CODE
from synco_hub.cli.options import RobustnessDemoOptions
from synco_hub.cli.processes import run_child
from synco_hub.output_paths import check_output_folder
from synco_hub.results import EvaluationResult
from synco_hub.results_table import compare_results, to_markdown
from synco_hub.visualization import save_figure

CHECKPOINT = "synco-v2-vit-nano"
# What linear probing writes last, for our backbones and for others.
FINISHED = ("model.safetensors", "linear_head.safetensors")
PROBE_SETTINGS = "classification_settings.json"
EPSILONS = (1, 2, 4)  # in 1/255; 8 is the paper's
FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
SEVERITIES = (1, 2, 3, 4, 5)
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


def robustness_demo(options: RobustnessDemoOptions) -> None:
    """`synco-hub robustness-demo`."""
    output_dir = options.output_dir
    check_output_folder(output_dir, "--output-dir")
    classifier = _classifier(output_dir, options.model, options.pretraining_steps)
    corrupted, attacked = output_dir / "corruptions.json", output_dir / "attacks.json"
    common = ["--model", str(classifier), "--dataset", "fractals", "--num-images", str(options.num_images)]
    _run("evaluate", "robustness", "--on-the-fly", *common, "--output", str(corrupted))
    _run("evaluate", "adversarial", *common, "--output", str(attacked))
    weaker = {epsilon: output_dir / f"attacks_epsilon_{epsilon}.json" for epsilon in EPSILONS}
    for epsilon, file in weaker.items():
        flags = ["--attacks", "fgsm,pgd", "--epsilon", f"{epsilon}/255", "--output", str(file)]
        _run("evaluate", "adversarial", *common, *flags)
    text = table(corrupted, attacked)
    with atomic_write(output_dir / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    figure = draw(corrupted, attacked, weaker, output_dir / "robustness.png")
    print(f"\n{text}\nfigure: {figure}\ntable:  {output_dir / 'table.md'}")


def _classifier(output_dir: Path, model: str | None, steps: int | None) -> Path:
    """The folder of the linear classifier, trained unless it is there."""
    probe = output_dir / "classifier"
    if any((probe / name).is_file() for name in FINISHED):
        check_backbone(probe, model)
        return probe
    if model is None and steps is None:
        model = CHECKPOINT
    if model is None:
        backbone = output_dir / "pretraining"
        flags = {**SETTINGS, "method": "synco-v2", "max-steps": str(steps), "output-dir": str(backbone)}
        if not (backbone / "model.safetensors").is_file():
            print(f"pretraining a backbone for {steps} steps")
            _run("pretrain", *[f"--{name}={value}" for name, value in flags.items()])
        model = str(backbone)
    flags = {"dataset": "fractals", "num-train-epochs": "30", "report-to": "none", "output-dir": str(probe)}
    _run(
        "linear-probe",
        f"--model={model}",
        "--cached-features",
        *[f"--{name}={value}" for name, value in flags.items()],
    )
    return probe


def check_backbone(probe: Path, model: str | None) -> None:
    """Check that a finished classifier was trained on the backbone that is asked for."""
    settings = probe / PROBE_SETTINGS
    if model is None or not settings.is_file():
        return
    trained_on = json.loads(settings.read_text(encoding="utf-8")).get("model")
    if trained_on != model:
        raise ValueError(f"{probe} is a classifier on {trained_on}, not on {model}: give another --output-dir.")


def _run(*arguments: str) -> None:
    """Run a command of this package in a process of its own; a null attack is a finding, not a failure."""
    threads = {"OMP_WAIT_POLICY": "passive", **os.environ}
    try:
        run_child([sys.executable, "-m", "synco_hub.cli", *arguments], threads)
    except CalledProcessError as error:
        if error.returncode != (NULL_EXIT_CODE if "adversarial" in arguments else 0):
            raise ValueError(
                f"`synco-hub {' '.join(arguments)}` ended with exit code {error.returncode}: see its line above"
            ) from None


def table(corrupted: Path, attacked: Path) -> str:
    """Accuracy of each corruption at each severity, and the results as `results table` shows them, as Markdown."""
    metrics = EvaluationResult.load(corrupted).metrics
    lines = ["| corruption | " + " | ".join(map(str, SEVERITIES)) + " | mean |", "|---|" + "---:|" * 6]
    for family, names in FAMILIES.items():
        for name in names:
            values = [metrics[f"corrupted_{name}_{severity}_top1"] for severity in SEVERITIES]
            cells = " | ".join(f"{value:.1f}" for value in [*values, metrics[f"corrupted_{name}_top1"]])
            lines.append(f"| {name} ({family}) | {cells} |")
    results = [EvaluationResult.load(path) for path in (corrupted, attacked)]
    return "\n".join(lines) + "\n\n" + to_markdown(compare_results(results, with_paper=False))


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


def draw(corrupted: Path, attacked: Path, weaker: Mapping[int, Path], output: Path) -> Path:
    """Draw accuracy against severity and against ε."""
    result = EvaluationResult.load(corrupted)
    metrics, clean = result.metrics, result.metrics["clean_top1"]
    everything = tuple(name for names in FAMILIES.values() for name in names)
    severity = []
    for family, names in {"all 15 corruptions": everything, **FAMILIES}.items():
        means = [sum(metrics[f"corrupted_{name}_{at}_top1"] for name in names) / len(names) for at in SEVERITIES]
        severity.append(Curve(family, (0, *SEVERITIES), (clean, *means)))
    attacks = {
        **{at: EvaluationResult.load(path).metrics for at, path in weaker.items()},
        8: EvaluationResult.load(attacked).metrics,
    }
    places = sorted(attacks)
    epsilon = [
        Curve(
            name.upper(),
            (0, *places),
            (attacks[8]["top1_clean"], *(attacks[at][f"top1_{name}"] for at in places)),
        )
        for name in ("fgsm", "pgd")
    ]
    chance = 100.0 / (result.dataset.num_classes or 10)
    images = int(result.protocol.parameters["cells"]["clean"]["images"])
    title = f"Linear classifier on frozen features: {result.dataset.name}, {images} test images"
    note = "; ".join(note for note in result.notes if "on the fly" in note)
    return save_figure(robustness_figure(severity, epsilon, chance, title, note), output)


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
    """
    names = list(dict.fromkeys(curve.name for curve in (*severity, *epsilon)))
    if len(names) > len(_STYLES):
        raise ValueError(f"{len(names)} curves: {len(_STYLES)} can be told apart; draw their means")
    styles = dict(zip(names, _STYLES, strict=False))
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_panel(left, severity, styles, chance)
    _draw_panel(right, epsilon, styles, chance)
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


def _draw_panel(
    axes: Axes, curves: Sequence[Curve], styles: Mapping[str, tuple[str, str, str]], chance: float
) -> None:
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
