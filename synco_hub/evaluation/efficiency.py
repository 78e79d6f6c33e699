"""What a backbone costs to use: parameters, operations, images a second, memory (paper Tables 10 and 15).

The training half (time of a step, with and without synthetic negatives) steps an optimizer: `trainers.step_time`, in a
process of its own.

Expected of the paper, Table 10: DeiT-S 22 M parameters and 940 images a second, Swin-T 28 M and 755, on its device.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from synco_hub.errors import FlagError
from synco_hub.evaluation.measurement import EvaluatedModel, model_source, save_each
from synco_hub.feature_pooling import (
    FeatureRule,
    compute_image_features,
    find_expected_image_size,
    find_feature_network,
    find_feature_rule,
)
from synco_hub.features import AUTOCAST_TYPES, eval_mode
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name
from synco_hub.settings import DatasetChoice, EfficiencySettings, Precision

# Batches before those that are timed.
_WARMUP = 3
_BACKBONE, _METHOD, _IMAGE_SIZE = "deit-s", "synco-v2", 224


def evaluate(
    model: EvaluatedModel | None, data: DatasetChoice, settings: EfficiencySettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a backbone, or random weights of `settings.backbone`, and its training steps of `settings.methods`."""
    wanted = settings.methods
    if model is None:
        backbone = settings.backbone or _BACKBONE
        model = EvaluatedModel(SynCoModel(SynCoConfig(backbone=backbone)), None, f"random {backbone}")
        wanted = _METHOD if wanted is None else wanted
    elif settings.backbone is not None:
        raise FlagError(f"--backbone {settings.backbone} names the network without --model: leave one of them out.")
    methods = [name.strip() for name in (wanted or "").split(",") if name.strip()]
    network: Any = find_feature_network(model.network)
    if methods and not isinstance(network, SynCoModel):
        raise FlagError(
            f"--methods {wanted}: training steps are those of this package's networks, and {model.name} is a "
            f"{type(network).__name__}; leave --methods out, or give a --backbone in the place of --model."
        )
    result = evaluate_efficiency(model, settings)
    for method in methods:
        result = _merge_step(result, _measure_step(method, network.config, settings), method)
    return save_each([result], output)


def format_table(result: EvaluationResult) -> str:
    """Every number, and the device."""
    lines = [f"  {name:<52} {value:12.2f}" for name, value in result.metrics.items()]
    return "\n".join([*lines, f"on {result.device}"])


def evaluate_efficiency(model: EvaluatedModel, settings: EfficiencySettings | None = None) -> EvaluationResult:
    """Measure what the features of a frozen model cost."""
    settings = settings or EfficiencySettings()
    started = time.perf_counter()
    device = settings.device or "cpu"
    total, trainable = count_parameters(model.network)
    network, rule = find_feature_network(model.network), find_feature_rule(model.network)
    channels, height, width = _input_shape(model)
    pixels = torch.randn(settings.batch_size, channels, height, width, device=device)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with eval_mode(network, device), torch.inference_mode():
        # Kernels that the counter does not know would be missing: one image in full precision is counted.
        operations = count_operations(lambda: compute_image_features(network, pixels[:1], rule))
        title = f"batches of {settings.batch_size}"
        with tqdm(total=_WARMUP + settings.repeats, desc=title, disable=not settings.progress) as bar:

            def forward() -> None:
                _forward(network, pixels, rule, settings.precision)
                bar.update()

            seconds = measure_seconds(forward, settings.repeats, _WARMUP, device)
    median = statistics.median(seconds)
    return EvaluationResult(
        metrics={
            "parameters_m": total / 1e6,
            "trainable_parameters_m": trainable / 1e6,
            "gflops_per_image": operations / 1e9,
            "images_per_second": settings.batch_size / median,
            "milliseconds_per_batch": 1e3 * median,
            "peak_memory_mb": measure_peak_memory_mb(device),
        },
        model=model_source(model.network, model.name, model.revision, settings.precision),
        dataset=DataSource(
            "random pixels", "none", settings.batch_size, description="Normal noise; no image is read."
        ),
        protocol=ProtocolFacts(
            "efficiency",
            {
                "batch_size": settings.batch_size,
                "image_size": height,
                "input": [channels, height, width],
                "repeats": settings.repeats,
                "warmup": _WARMUP,
                "device": device,
                "precision": settings.precision,
            },
        ),
        device=device_name(device),
        duration_s=time.perf_counter() - started,
        notes=("One multiplication and addition counts as two operations.", "Times are medians of single batches."),
    )


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Total and trainable parameters; a tensor that two modules share counts once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def count_operations(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products of a call, two for a multiplication and addition."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def measure_seconds(call: Callable[[], Any], repeats: int, warmup: int, device: torch.device | str) -> list[float]:
    """Wall-clock seconds of each repetition, the device's work included."""
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        wait_for(device)
        started = time.perf_counter()
        call()
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def wait_for(device: torch.device | str) -> None:
    """Wait until the device has finished what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def measure_peak_memory_mb(device: torch.device | str) -> float:
    """Most memory in use so far, in 10^6 bytes: the device's tensors, or on a CPU the whole process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _forward(network: nn.Module, pixels: Tensor, rule: FeatureRule, precision: Precision) -> None:
    dtype = AUTOCAST_TYPES[precision]
    with torch.autocast(pixels.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        compute_image_features(network, pixels, rule)


def _input_shape(model: EvaluatedModel) -> tuple[int, int, int]:
    """Channels, height and width of what the network takes: by its weights, else by its processor, else 224 pixels."""
    first = next((each for each in model.network.modules() if isinstance(each, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    size = find_expected_image_size(model.network)
    if size is None and model.processor is not None:
        size = (model.transform.image_size,) * 2
    return channels, *(size or (_IMAGE_SIZE, _IMAGE_SIZE))


def _measure_step(method: str, config: SynCoConfig, settings: EfficiencySettings) -> EvaluationResult:
    """Time training steps of a network in a process of their own, since nothing here steps an optimizer."""
    flags: dict[str, Any] = {"method": method, "backbone": config.backbone, "batch-size": settings.batch_size}
    flags |= {"processes": settings.processes, "steps": settings.repeats}
    flags |= {"device": settings.device or "cpu", "precision": settings.precision}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "step.json"
        (Path(folder) / "config.json").write_text(config.to_json_string(use_diff=False), encoding="utf-8")
        words = [*(f"--{name}={value}" for name, value in flags.items()), f"--config={folder}"]
        words += [*([] if settings.progress else ["--no-progress"]), f"--output={file}"]
        subprocess.run([sys.executable, "-m", "trainers.step_time", *words], check=True)
        return EvaluationResult.load(file, "step_time")


def _merge_step(result: EvaluationResult, step: EvaluationResult, method: str) -> EvaluationResult:
    """One result with the metrics of both; those of training are named `train_<method>_…`."""
    metrics = {f"train_{method}_{name}": value for name, value in step.metrics.items()}
    parameters = {**result.protocol.parameters, f"train_{method}": dict(step.protocol.parameters)}
    notes = tuple(dict.fromkeys([*result.notes, *step.notes]))
    protocol = replace(result.protocol, parameters=parameters)
    return replace(result, metrics={**result.metrics, **metrics}, protocol=protocol, notes=notes)
