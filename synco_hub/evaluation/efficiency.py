"""What a backbone costs to use: parameters, operations, images a second, memory (paper Tables 10 and 15).

The training half (time of a step, with and without synthetic negatives) steps an optimizer: `trainers.step_time`.

Expected of the paper, Table 10: DeiT-S 22 M parameters and 940 images a second, Swin-T 28 M and 755, on its device.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from synco_hub.evaluation.measurement.measured_split import model_source
from synco_hub.feature_adapter import feature_network
from synco_hub.frozen import frozen
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class EfficiencySettings:
    """How the cost is measured.

    Attributes:
        batch_size: Images together.
        image_size: Side of an image in pixels.
        repeats: Timed batches; the median counts.
        warmup: Batches before them.
        device: Where it runs.
        precision: `fp32`, or autocast to `bf16` or `fp16`.

    Raises:
        ValueError: If a number is not positive or the precision unknown.
    """

    batch_size: int = 64
    image_size: int = 224
    repeats: int = 20
    warmup: int = 3
    device: str = "cpu"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("batch_size", "image_size", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive: give at least 1.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is unknown: use one of {', '.join(PRECISIONS)}.")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Total and trainable parameters; a tensor that two modules share counts once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def count_operations(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products of a call, two for a multiplication and addition.

    Args:
        call: Runs the network once.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def seconds_of(call: Callable[[], Any], repeats: int, warmup: int, device: torch.device | str) -> list[float]:
    """Wall-clock seconds of each repetition, the device's work included.

    Args:
        call: What is timed.
        repeats: Timed calls.
        warmup: Calls before them, not timed.
        device: Waited for before and after each call, if it is an accelerator.
    """
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


def peak_memory_mb(device: torch.device | str) -> float:
    """Most memory in use so far, in 10^6 bytes: the device's tensors, or on a CPU the whole process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def evaluate_efficiency(
    model: nn.Module, settings: EfficiencySettings | None = None, model_name: str | None = None
) -> EvaluationResult:
    """Measure what a forward pass of a frozen model costs.

    Args:
        model: Any model that :mod:`synco_hub.feature_adapter` knows; it stays as it is.
        settings: How it is measured.
        model_name: What the result calls the model.

    Returns:
        ``parameters_m``, ``trainable_parameters_m``, ``gflops_per_image``, ``images_per_second``,
        ``milliseconds_per_batch`` and ``peak_memory_mb``.
    """
    settings = settings or EfficiencySettings()
    started = time.perf_counter()
    total, trainable = count_parameters(model)
    network: Any = feature_network(model)
    pixels = torch.randn(settings.batch_size, 3, settings.image_size, settings.image_size, device=settings.device)
    if torch.device(settings.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(settings.device)
    with frozen(network, settings.device), torch.inference_mode():
        # Kernels that the counter does not know would be missing: one image in full precision is counted.
        operations = count_operations(lambda: network(pixels[:1]))
        seconds = seconds_of(
            lambda: _forward(network, pixels, settings.precision), settings.repeats, settings.warmup, settings.device
        )
    median = statistics.median(seconds)
    return EvaluationResult(
        metrics={
            "parameters_m": total / 1e6,
            "trainable_parameters_m": trainable / 1e6,
            "gflops_per_image": operations / 1e9,
            "images_per_second": settings.batch_size / median,
            "milliseconds_per_batch": 1e3 * median,
            "peak_memory_mb": peak_memory_mb(settings.device),
        },
        model=model_source(model, model_name),
        dataset=DataSource(
            "random pixels", "none", settings.batch_size, description="Normal noise; no image is read."
        ),
        protocol=ProtocolFacts("efficiency", asdict(settings)),
        device=device_name(settings.device),
        duration_s=time.perf_counter() - started,
        notes=("One multiplication and addition counts as two operations.", "Times are medians of single batches."),
    )


def _forward(network: Any, pixels: Tensor, precision: str) -> None:
    dtype = PRECISIONS[precision]
    with torch.autocast(pixels.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        network(pixels)
