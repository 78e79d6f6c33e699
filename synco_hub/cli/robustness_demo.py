"""`synco-hub robustness-demo`: a fractal classifier under corruptions and attacks, in minutes on two CPU cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import typer

from synco_hub.cli.adversarial import NULL_EXIT_CODE
from synco_hub.cli.demo import SETTINGS
from synco_hub.cli.output_paths import check_output_folder

CHECKPOINT = "synco-v2-vit-nano"
# What linear probing writes last, for our backbones and for others.
FINISHED = ("model.safetensors", "linear_head.safetensors")
PROBE_SETTINGS = "classification_settings.json"
EPSILONS = (1, 2, 4)  # in 1/255; 8 is the paper's


def robustness_demo(
    output_dir: Path = typer.Option(Path("synco-robustness-demo"), help="Folder for results, table and figure."),
    model: str | None = typer.Option(
        None, help="Backbone; default: the one that `synco-hub demo` installed, else one is pretrained briefly here."
    ),
    num_images: int = typer.Option(100, help="Test images, drawn by seed 0."),
    pretraining_steps: int = typer.Option(300, help="Optimizer steps where a backbone has to be pretrained."),
) -> None:
    """Train a linear classifier on fractals; show its accuracy under 15 corruptions and 7 attacks as table and figure.

    What is finished in the output folder is not done again.

    Example: synco-hub robustness-demo --output-dir robustness
    """
    check_output_folder(output_dir, "--output-dir")
    from synco_hub.atomic_write import atomic_write

    classifier = _classifier(output_dir, model, pretraining_steps)
    corrupted, attacked = output_dir / "corruptions.json", output_dir / "attacks.json"
    common = ["--model", str(classifier), "--dataset", "fractals", "--num-images", str(num_images)]
    _run("evaluate", "robustness", "--on-the-fly", *common, "--output", str(corrupted))
    _run("evaluate", "adversarial", *common, "--output", str(attacked))
    weaker = {epsilon: output_dir / f"attacks_epsilon_{epsilon}.json" for epsilon in EPSILONS}
    for epsilon, file in weaker.items():
        flags = ["--attacks", "fgsm,pgd", "--epsilon", f"{epsilon}/255", "--output", str(file)]
        _run("evaluate", "adversarial", *common, *flags)
    # torch and matplotlib take seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.robustness_demo_report import draw, table

    text = table(corrupted, attacked)
    with atomic_write(output_dir / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    figure = draw(corrupted, attacked, weaker, output_dir / "robustness.png")
    print(f"\n{text}\nfigure: {figure}\ntable:  {output_dir / 'table.md'}")


def _classifier(output_dir: Path, model: str | None, steps: int) -> Path:
    """The folder of the linear classifier, trained unless it is there."""
    from synco_hub.zoo import installed_directory

    probe = output_dir / "classifier"
    if any((probe / name).is_file() for name in FINISHED):
        check_backbone(probe, model)
        return probe
    if model is None and installed_directory(CHECKPOINT) is not None:
        model = CHECKPOINT
    if model is None:
        backbone = output_dir / "pretraining"
        flags = {**SETTINGS, "method": "synco-v2", "max-steps": str(steps), "output-dir": str(backbone)}
        if not (backbone / "model.safetensors").is_file():
            print(f"no installed {CHECKPOINT}: pretraining one for {steps} steps")
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
    """Check that a finished classifier was trained on the backbone that is asked for.

    Raises:
        ValueError: If it is another one's.
    """
    settings = probe / PROBE_SETTINGS
    if model is None or not settings.is_file():
        return
    trained_on = json.loads(settings.read_text(encoding="utf-8")).get("model")
    if trained_on != model:
        raise ValueError(f"{probe} is a classifier on {trained_on}, not on {model}: give another --output-dir.")


def _run(*arguments: str) -> None:
    """Run a command of this package in a process of its own; a null attack is a finding, not a failure."""
    threads = {"OMP_WAIT_POLICY": "passive", **os.environ}
    done = subprocess.run([sys.executable, "-m", "synco_hub.cli", *arguments], env=threads, check=False)
    if done.returncode not in (0, NULL_EXIT_CODE if "adversarial" in arguments else 0):
        raise ValueError(
            f"`synco-hub {' '.join(arguments)}` ended with exit code {done.returncode}: see its line above"
        )
