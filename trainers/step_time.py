"""Time and memory of a training step, with and without synthetic negatives (paper Table 15).

    python -m trainers.step_time --method synco-v2 --backbone deit-s --batch-size 128 --output step.json

Expected of the paper on 4 GPUs with 128 images each: 31.6 minutes per ImageNet epoch for DeiT-S, 39 for Swin-T, and
with synthetic negatives no more than without. Takes seconds on a GPU, minutes on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from synco_hub.errors import report_errors
from synco_hub.evaluation.efficiency import count_parameters, measure_peak_memory_mb, measure_seconds
from synco_hub.features import AUTOCAST_TYPES
from synco_hub.models import SynCoConfig
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts, device_name
from trainers.pretraining_model import SynCoForPreTraining
from trainers.schedules import synthetic_epochs
from trainers.settings import PretrainingSettings
from trainers.token_dropout import TokenDropout

IMAGENET_IMAGES = 1_281_167
# So long may a pass be that only says what the ones to come will take.
_SECONDS_OF_TRIAL = 1.0


@dataclass(frozen=True)
class StepSettings:
    """What is timed.

    Attributes:
        method: `synco-v2`, `moby` or `byol`.
        backbone: Short name or timm name.
        config: Folder with the config.json of the network, in the place of `backbone`; "" for none.
        local_crops: Small views of an image beside the two.
        local_size: Their side in pixels.
        token_dropout: Share of patch tokens that the online encoder leaves out.
        batch_size: Images of a step on one device.
        processes: Devices that the epoch is divided by; time of their communication is not included.
        steps: Timed steps of each kind; the median counts.
        warmup: Steps before them.
        device: Where it runs.
        precision: `fp32`, `bf16` or `fp16`.
    """

    method: str = "synco-v2"
    backbone: str = "deit-s"
    batch_size: int = 128
    processes: int = 1
    steps: int = 10
    warmup: int = 2
    device: str = "cpu"
    precision: str = "fp32"
    config: str = ""
    local_crops: int = 0
    local_size: int = 96
    token_dropout: float = 0.0


def measure_step(
    settings: StepSettings, model: SynCoForPreTraining | None = None, progress: bool = False
) -> EvaluationResult:
    """Time whole steps: both views through both branches, loss, gradients, AdamW, target update, queue.

    Steps with and without synthetic negatives take turns, so that both meet the same state of the machine. Images are
    ready on the device: reading them is not included.
    """
    if min(settings.batch_size, settings.processes, settings.steps) < 1 or settings.precision not in AUTOCAST_TYPES:
        raise ValueError(
            f"batch_size={settings.batch_size}, processes={settings.processes}, steps={settings.steps} must be at "
            f"least 1 and precision={settings.precision!r} one of {', '.join(AUTOCAST_TYPES)}."
        )
    if model is None:
        model = SynCoForPreTraining(_build_config(settings))
    network: Any = model
    network.to(settings.device).train()
    if torch.device(settings.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(settings.device)
    step, memory = _step_function(model, settings)
    kinds = [False, True] if model.objective.synthesises else [False]
    seconds: dict[bool, list[float]] = {kind: [] for kind in kinds}
    title = f"steps of {settings.method}"
    for number in tqdm(range(settings.warmup + settings.steps), title, unit="step", disable=not progress):
        for kind in kinds:
            taken = measure_seconds(lambda kind=kind: step(kind), 1, 0, settings.device)[0]  # type: ignore[misc]
            if number >= settings.warmup:
                seconds[kind].append(taken)
    return _result(model, settings, {kind: statistics.median(taken) for kind, taken in seconds.items()}, memory)


def _build_config(settings: StepSettings) -> SynCoConfig:
    """A network of the paper's heads, or a given one with those that it was pretrained with."""
    pretraining = asdict(PretrainingSettings(method=settings.method, token_dropout=settings.token_dropout))
    if not settings.config:
        return SynCoConfig(backbone=settings.backbone, pretraining=pretraining)
    config: Any = SynCoConfig.from_pretrained(settings.config)
    asked = {"method": settings.method, "token_dropout": settings.token_dropout}
    config.pretraining = {**pretraining, **(config.pretraining or {}), **asked}
    return config


def describe_step_cost(model: SynCoForPreTraining, batch_size: int, local_crops: int = 0, local_size: int = 0) -> str:
    """What small views add to a step and dropped tokens save, counted and measured for random pixels.

    Network and random states stay: all but the dropout is in the mode of evaluation, so nothing is kept and no process
    waits for another.
    """
    config, device, shares = model.config, model.device, model.settings.token_dropouts
    side, patch, was_training = config.image_size, config.patch_size, model.training
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(images: int, whole: bool) -> None:
        for module in model.modules():
            if isinstance(module, TokenDropout):
                module.train(not whole)
        number = 0 if whole else local_crops
        sizes = [(images, side), (images, side), (images, number, local_size)]
        view_1, view_2, local = (
            torch.randn(*shape, config.num_channels, last, last, device=device) for *shape, last in sizes
        )
        output = model(view_1, view_2, local_views=local if number else None)
        torch.autograd.grad(output.loss, trainable, allow_unused=True)

    def measure(images: int, whole: bool, repeats: int, warmup: int) -> float:
        return statistics.median(measure_seconds(lambda: step(images, whole), repeats, warmup, device))

    operations, seconds = [], []
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.compiler.set_stance("force_eager"):
        model.train(False)
        for whole in (True, False):
            with FlopCounterMode(display=False) as counter:
                taken = measure(2, whole, 1, 0)
            operations.append(counter.get_total_flops() / 2e9)
        batch = int(min(max(2 * _SECONDS_OF_TRIAL / taken, 2), batch_size))
        for whole in (True, False):
            seconds.append(measure(batch, whole, 3, 1))
        model.train(was_training)
    patches = [(size // patch) ** 2 for size in (side, local_size)]
    said = [
        f"--{name.replace('_', '-')} {share:g}: {max(int(patches[0] * (1 - share)), 1)} of {patches[0]} patches stay"
        for name, share in shares.items()
    ]
    if local_crops:
        said.append(
            f"{local_crops} small views of {local_size} pixels: {local_crops * patches[1]} patches of an image beside "
            f"{2 * patches[0]} of both views"
        )
    rates = [batch / each for each in seconds]
    return (
        f"{'; '.join(said)}. A step takes {operations[1]:.3g} GFLOP an image in the place of {operations[0]:.3g}; its "
        f"forward and backward passes {rates[1]:.3g} images a second in the place of {rates[0]:.3g}, "
        f"{seconds[1] / seconds[0]:.2f} of the time."
    )


def _step_function(model: SynCoForPreTraining, settings: StepSettings) -> tuple[Callable[[bool], None], list[float]]:
    """A whole optimizer step, and the list to which it adds the memory in use at its height."""
    device = torch.device(settings.device)
    size = model.config.image_size or 224
    batch, channels = settings.batch_size, model.config.num_channels
    views = [torch.randn(batch, channels, size, size, device=device) for _ in range(2)]
    small = (batch, settings.local_crops, channels, settings.local_size, settings.local_size)
    local = torch.randn(small, device=device) if settings.local_crops else None
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-5, weight_decay=0.1, fused=True)
    dtype = AUTOCAST_TYPES[settings.precision]
    memory: list[float] = []

    def step(synthetic: bool) -> None:
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            output = model(*views, synthetic_active=synthetic, local_views=local)
        assert output.loss is not None
        memory.append(
            torch.cuda.memory_allocated(device) / 1e6 if device.type == "cuda" else measure_peak_memory_mb(device)
        )
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.update_target_network(0.99)

    return step, memory


def hours(epochs: int, minutes_without: float, minutes_with: float) -> float:
    """Hours of a run whose synthesis window is the default's."""
    active = len(synthetic_epochs(epochs))
    return (active * minutes_with + (epochs - active) * minutes_without) / 60


def _result(
    model: SynCoForPreTraining, settings: StepSettings, seconds: dict[bool, float], memory: list[float]
) -> EvaluationResult:
    total, trainable = count_parameters(model)
    images = settings.batch_size * settings.processes
    minutes = {kind: IMAGENET_IMAGES / images * taken / 60 for kind, taken in seconds.items()}
    without, with_synthesis = minutes[False], minutes.get(True, minutes[False])
    metrics = {
        "total_parameters_m": total / 1e6,
        "trainable_parameters_m": trainable / 1e6,
        "trainable_percent": 100 * trainable / total,
        "step_milliseconds": 1e3 * seconds[False],
        "peak_memory_mb": measure_peak_memory_mb(settings.device),
        "average_memory_mb": statistics.fmean(memory),
        "images_per_second": images / seconds[False],
        "minutes_per_imagenet_epoch": without,
        "hours_100_epochs": hours(100, without, with_synthesis),
        "hours_300_epochs": hours(300, without, with_synthesis),
    }
    if True in seconds:
        metrics["step_milliseconds_with_synthesis"] = 1e3 * seconds[True]
        metrics["minutes_per_imagenet_epoch_with_synthesis"] = with_synthesis
        metrics["synthesis_overhead_percent"] = 100 * (seconds[True] / seconds[False] - 1)
    return EvaluationResult(
        metrics=metrics,
        model=ModelSource(
            f"{settings.method}-{model.config.backbone}", "pretraining network", "none: random weights", total
        ),
        dataset=DataSource(
            "random pixels", "none", settings.batch_size, description="Normal noise; no image is read."
        ),
        protocol=ProtocolFacts(
            "step_time",
            {**asdict(settings), "backbone": model.config.backbone, "config": model.config.to_diff_dict()},
        ),
        device=device_name(settings.device),
        notes=(
            "Hours are this device's steps divided by the processes, without communication and reading of images.",
            "Average memory is that after the forward pass; on a CPU it is the whole process at its height.",
        ),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; one clear line and exit code 1 on failure."""
    parser = argparse.ArgumentParser(
        prog="python -m trainers.step_time", description=(__doc__ or "").split("\n", 1)[0]
    )
    for name, default in asdict(StepSettings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--no-progress", action="store_true", help="Show no progress bar.")
    parser.add_argument("--output", type=Path, required=True, help="Where to write the result.")
    with report_errors():
        values = vars(parser.parse_args(sys.argv[1:] if argv is None else argv))
        output, silent = values.pop("output"), values.pop("no_progress")
        measure_step(StepSettings(**values), progress=not silent).save(output)


if __name__ == "__main__":
    main()
