"""`synco-hub evaluate efficiency`: what a network costs to use and to train."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import typer

from synco_hub.output_paths import check_result_file
from synco_hub.results import EvaluationResult


def efficiency(
    model: str | None = typer.Option(None, help="Checkpoint or short name; left out: random weights of --backbone."),
    backbone: str = typer.Option("deit-s", help="Backbone of the training steps, and of the network without --model."),
    methods: str = typer.Option("synco-v2", help="Methods whose steps are timed, separated by commas; '' for none."),
    batch_size: int = typer.Option(64, help="Images of a forward pass and of a training step."),
    processes: int = typer.Option(1, help="Devices that share an epoch in the extrapolation."),
    repeats: int = typer.Option(10, help="Timed batches and steps; the median counts."),
    precision: str = typer.Option("fp32", help="fp32, bf16 or fp16."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
    output: Path = typer.Option(Path("efficiency.json"), help="Where to write the result."),
) -> None:
    """Parameters, operations, images a second, memory, time of a step, hours of a run (paper Tables 10 and 15).

    Example: synco-hub evaluate efficiency --backbone swin-t --methods moby,synco-v2 --batch-size 128 --output e.json
    """
    check_result_file(output)
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.evaluation_inputs import best_device
    from synco_hub.evaluation.efficiency import EfficiencySettings, evaluate_efficiency
    from synco_hub.hub.loading import load_model
    from synco_hub.models import SynCoConfig, SynCoModel

    chosen = best_device(device)
    network = load_model(model)[0] if model else SynCoModel(SynCoConfig(backbone=backbone))
    size = getattr(network.config, "image_size", None) or 224
    settings = EfficiencySettings(batch_size, size, repeats, device=chosen, precision=precision)
    result = evaluate_efficiency(network, settings, model or f"random {backbone}")
    for method in filter(None, (name.strip() for name in methods.split(","))):
        flags = {"method": method, "backbone": backbone, "batch-size": batch_size, "processes": processes}
        flags |= {"steps": repeats, "device": chosen, "precision": precision}
        result = merged(result, measured_step([f"--{name}={value}" for name, value in flags.items()]), method)
    result.save(output)
    for name, value in result.metrics.items():
        print(f"  {name:<52} {value:12.2f}")
    print(f"on {result.device}; wrote {output}")


def measured_step(flags: list[str]) -> EvaluationResult:
    """Time training steps in a process of their own, since nothing here steps an optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "step.json"
        subprocess.run([sys.executable, "-m", "trainers.step_time", *flags, f"--output={file}"], check=True)
        return EvaluationResult.load(file, "step_time")


def merged(result: EvaluationResult, step: EvaluationResult, method: str) -> EvaluationResult:
    """One result with the metrics of both; those of training are named `train_<method>_…`."""
    metrics = {f"train_{method}_{name}": value for name, value in step.metrics.items()}
    parameters = {**result.protocol.parameters, f"train_{method}": dict(step.protocol.parameters)}
    notes = tuple(dict.fromkeys([*result.notes, *step.notes]))
    protocol = replace(result.protocol, parameters=parameters)
    return replace(result, metrics={**result.metrics, **metrics}, protocol=protocol, notes=notes)
