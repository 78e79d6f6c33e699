"""`synco-hub demo`: the main job of the package on images it draws itself, in minutes on two CPU cores."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from synco_hub.cli.options import DemoOptions
from synco_hub.cli.processes import run_child
from synco_hub.data import load_dataset
from synco_hub.evaluation.knn import evaluate as evaluate_knn
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.features import choose_device
from synco_hub.hub.card.model_card import write_card
from synco_hub.hub.loading import load_model
from synco_hub.hub.pull import install_checkpoint
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult
from synco_hub.settings import DatasetChoice, KnnSettings
from synco_hub.visualization import attention_figure, attention_maps, denormalised, save_figure

RESULT_FILE = "results_knn_fractals.json"
# What the paper's numbers become for 1,000 images of 32 pixels, a network of 0.4 M parameters and a few minutes.
# Queue, hard negatives and synthetic ones keep the paper's proportions (4096 : 256 : 768); learning rate and momentum
# of the target are those of a short run.
SETTINGS = {
    "backbone": "vit-nano",
    "dataset": "fractals",
    "per-device-train-batch-size": "64",
    "learning-rate": "3e-3",
    "queue-size": "512",
    "num-hard-negatives": "32",
    "num-interpolation": "16",
    "num-extrapolation": "16",
    "num-mixup": "16",
    "num-noise-injection": "16",
    "num-gradient-perturbation": "16",
    "num-adversarial-perturbation": "16",
    "momentum-start": "0.95",
    "projection-hidden-dim": "512",
    "projection-dim": "128",
    "online-drop-path-rate": "0.0",
    "dataloader-num-workers": "1",
    "logging-steps": "50",
    "save-strategy": "no",
}


def demo(options: DemoOptions) -> None:
    """`synco-hub demo`."""
    method, steps = options.method, options.max_steps
    run = options.output_dir / f"{method}-vit-nano"
    if run.exists():
        raise ValueError(f"{run} exists already: remove it, or choose another folder with --output-dir.")
    before = measure(save_random_network(options.seed), f"random {SETTINGS['backbone']}")
    print(f"random network:   k-NN top-1 (k = 10) {_top1(before)} on held-out fractals\n")
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    flags += [
        f"--method={method}",
        f"--max-steps={steps}",
        f"--seed={options.seed}",
        f"--output-dir={run}",
    ]
    # One core draws views, the others train; threads that wait for each other's core cost more than they bring.
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 2) - 1, 1))}
    run_child([sys.executable, "-m", "trainers.pretrain", *flags], {**os.environ, **threads})
    name, after = finish(run)
    picture = draw_attention_example(name, options.output_dir)
    ratio = after.metrics["top1_k10"] / before.metrics["top1_k10"]
    print(
        f"\nrandom network:   k-NN top-1 (k = 10) {_top1(before)}"
        f"\nafter {method:<10}: k-NN top-1 (k = 10) {_top1(after)}, {ratio:.2f} times as much"
        f"\nattention figure: {picture}"
        f"\ninstalled as:     {name}\n\nNext:\n"
        f"  python -c 'import synco_hub, transformers; print(transformers.AutoModel.from_pretrained(\"{name}\"))'\n"
        f"  synco-hub evaluate knn --model {name} --dataset fractals --output results.json\n"
        f"  synco-hub attention --model {name} --image YOUR.jpg --output attention.png\n"
        f"  synco-hub pretrain --method {method} --backbone deit-s --dataset YOUR_FOLDER --output-dir runs/first"
    )


def _top1(result: EvaluationResult) -> str:
    """With its standard error."""
    return f"{result.metrics['top1_k10']:.1f} % ± {result.standard_errors['top1_k10']:.1f}"


def save_random_network(seed: int) -> SynCoModel:
    """The network of the demonstration before any training."""
    torch.manual_seed(seed)
    return SynCoModel(SynCoConfig(backbone="vit-nano"))


def measure(model: SynCoModel, name: str) -> EvaluationResult:
    """k-NN accuracy on the held-out fractals."""
    evaluated = EvaluatedModel(model, image_processor(model.config.image_size), name)
    return evaluate_knn(evaluated, DatasetChoice(), KnnSettings(num_workers=0, device=choose_device(), progress=False))


def finish(run: Path) -> tuple[str, EvaluationResult]:
    """Measure the finished run, put the number on its card, install it; gives its short name and its result."""
    model, _ = load_model(str(run))
    result = measure(model, run.name)
    result.save(run / RESULT_FILE)
    settings = json.loads((run / "pretraining_settings.json").read_text())
    write_card(run, run.name, model.config.to_dict(), settings, [result])
    install_checkpoint(run, run.name)
    return run.name, result


def draw_attention_example(name: str, directory: Path) -> Path:
    """Load the installed checkpoint by its short name and draw what it attends to in a held-out fractal."""
    model, processor = load_model(name)
    image = load_dataset("fractals", "test", image_size=model.config.image_size).load_image(0)
    pixels = processor(image, return_tensors="pt").pixel_values
    shown = denormalised(pixels[0], processor.image_mean, processor.image_std)
    return save_figure(attention_figure(shown, attention_maps(model, pixels)), directory / f"{name}-attention.png")
