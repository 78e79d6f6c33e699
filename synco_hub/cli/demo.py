"""`synco-hub demo`: the main job of the package on images it draws itself, in minutes on two CPU cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer

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


def demo(
    method: str = typer.Option("synco-v2", help="synco-v2, moby or byol."),
    output_dir: Path = typer.Option(Path("synco-demo"), help="Folder for the run, its results and the figure."),
    max_steps: int = typer.Option(1000, help="Optimizer steps of pretraining."),
    seed: int = typer.Option(0, help="Seed of the weights, the order and the views."),
) -> None:
    """Draw fractals, pretrain a small ViT on them, measure it before and after, install it and show its attention.

    Example: synco-hub demo --method moby --output-dir demo-moby
    """
    run = output_dir / f"{method}-vit-nano"
    if run.exists():
        raise ValueError(f"{run} exists already: remove it, or choose another folder with --output-dir.")
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.demo_steps import attention_example, finish, measure, random_network

    before = measure(random_network(seed), f"random {SETTINGS['backbone']}")
    print(f"random network:   k-NN top-1 (k = 10) {before.metrics['top1_k10']:.1f} % on held-out fractals\n")
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    flags += [f"--method={method}", f"--max-steps={max_steps}", f"--seed={seed}", f"--output-dir={run}"]
    # One core draws views, the others train; threads that wait for each other's core cost more than they bring.
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 2) - 1, 1))}
    subprocess.run([sys.executable, "-m", "trainers.pretrain", *flags], check=True, env={**os.environ, **threads})
    name, after = finish(run)
    picture = attention_example(name, output_dir)
    ratio = after.metrics["top1_k10"] / before.metrics["top1_k10"]
    print(
        f"\nrandom network:   k-NN top-1 (k = 10) {before.metrics['top1_k10']:.1f} %"
        f"\nafter {method:<10}: k-NN top-1 (k = 10) {after.metrics['top1_k10']:.1f} %, {ratio:.2f} times as much"
        f"\nattention figure: {picture}"
        f"\ninstalled as:     {name}\n\nNext:\n"
        f"  python -c 'import synco_hub, transformers; print(transformers.AutoModel.from_pretrained(\"{name}\"))'\n"
        f"  synco-hub evaluate knn --model {name} --dataset fractals --output results.json\n"
        f"  synco-hub attention --model {name} --image YOUR.jpg --output attention.png\n"
        f"  synco-hub pretrain --method {method} --backbone deit-s --dataset YOUR_FOLDER --output-dir runs/first"
    )
