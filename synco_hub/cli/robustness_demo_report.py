"""Table and figure of `synco-hub robustness-demo`, from the results that its commands wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from synco_hub.results import EvaluationResult
from synco_hub.results_table import comparison, to_markdown
from synco_hub.visualization import save_figure
from synco_hub.visualization.robustness_figure import Curve, robustness_figure

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
SEVERITIES = (1, 2, 3, 4, 5)


def table(corrupted: Path, attacked: Path) -> str:
    """Accuracy of each corruption at each severity, and the results as `results table` shows them, as Markdown.

    Args:
        corrupted: What `evaluate robustness --on-the-fly` wrote.
        attacked: What `evaluate adversarial` wrote.
    """
    metrics = EvaluationResult.load(corrupted).metrics
    lines = ["| corruption | " + " | ".join(map(str, SEVERITIES)) + " | mean |", "|---|" + "---:|" * 6]
    for family, names in FAMILIES.items():
        for name in names:
            values = [metrics[f"corrupted_{name}_{severity}_top1"] for severity in SEVERITIES]
            cells = " | ".join(f"{value:.1f}" for value in [*values, metrics[f"corrupted_{name}_top1"]])
            lines.append(f"| {name} ({family}) | {cells} |")
    results = [EvaluationResult.load(path) for path in (corrupted, attacked)]
    return "\n".join(lines) + "\n\n" + to_markdown(comparison(results, with_paper=False))


def draw(corrupted: Path, attacked: Path, weaker: Mapping[int, Path], output: Path) -> Path:
    """Draw accuracy against severity and against ε.

    Args:
        corrupted: What `evaluate robustness --on-the-fly` wrote.
        attacked: What `evaluate adversarial` wrote, at 8/255.
        weaker: The same at other ε, by ε in 1/255.
        output: The figure, .png or .pdf.

    Returns:
        Path of the figure.
    """
    result = EvaluationResult.load(corrupted)
    metrics, clean = result.metrics, result.metrics["clean_top1"]
    everything = tuple(name for names in FAMILIES.values() for name in names)
    severity = []
    for family, names in {"all 15 corruptions": everything, **FAMILIES}.items():
        means = [sum(metrics[f"corrupted_{name}_{at}_top1"] for name in names) / len(names) for at in SEVERITIES]
        severity.append(Curve(family, (0, *SEVERITIES), (clean, *means)))
    attacks = {**{at: EvaluationResult.load(path).metrics for at, path in weaker.items()}, 8: _metrics(attacked)}
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
    title = f"Linear classifier on frozen features: {result.dataset.name}, {_images(result)} test images"
    note = "; ".join(note for note in result.notes if "on the fly" in note)
    return save_figure(robustness_figure(severity, epsilon, chance, title, note), output)


def _metrics(path: Path) -> Mapping[str, float]:
    return EvaluationResult.load(path).metrics


def _images(result: EvaluationResult) -> int:
    return int(result.protocol.parameters["cells"]["clean"]["images"])
