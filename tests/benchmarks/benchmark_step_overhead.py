"""Measures what SynCo-v2's loss costs beyond MoBY's, as a share of a whole training step; and the EMA, with foreach.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python tests/benchmarks/benchmark_step_overhead.py

DeiT-S at 224 pixels, batch 16, on a CPU: about five minutes; writes tests/benchmarks/results/step_overhead_cpu.json.
Goal: (SynCo-v2's loss − MoBY's loss) is at most 1 % of a step. Times are CPU seconds of the process on one thread,
medians over rounds in which the variants take turns. The loss is forward and backward of both directions.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from interleaved import RESULTS, Finding, median_ratio, seconds, write_report
from torch import Tensor
from torch.nn import functional as F

from synco_hub.models import SynCoConfig
from trainers.info_nce import info_nce
from trainers.pretraining_model import SynCoForPreTraining, build_synthetic_negatives
from trainers.settings import PretrainingSettings


def normalize(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=1)


def loss_calls(settings: PretrainingSettings, batch_size: int) -> dict[str, Callable[[], None]]:
    """Both directions of each loss, forward and backward."""
    synthetic = build_synthetic_negatives(settings)
    queues = [normalize(settings.queue_size, settings.projection_dim) for _ in range(2)]
    keys = [normalize(batch_size, settings.projection_dim) for _ in range(2)]
    queries = [normalize(batch_size, settings.projection_dim).requires_grad_() for _ in range(2)]
    directions = list(zip(queries, keys, queues, strict=True))

    def moby() -> None:
        sum(info_nce(*direction, temperature=settings.temperature).loss for direction in directions).backward()

    def synco() -> None:
        sum(synthetic.contrast(*direction).loss for direction in directions).backward()

    return {"moby loss": moby, "synco-v2 loss": synco}


def step_calls(model: SynCoForPreTraining, batch_size: int) -> dict[str, Callable[[], None]]:
    """A whole step without synthetic negatives, and the two ways of the EMA."""
    size = model.config.image_size or 224
    views = [torch.randn(batch_size, 3, size, size) for _ in range(2)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    target, online = list(model.target.parameters()), list(model.synco.parameters())

    def step() -> None:
        model(*views, synthetic_active=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_target_network(0.99)

    @torch.no_grad()
    def loop() -> None:
        for kept, parameter in zip(target, online, strict=True):
            kept.mul_(0.99).add_(parameter, alpha=0.01)

    return {"step": step, "ema foreach": lambda: model.update_target_network(0.99), "ema loop": loop}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--backbone", default="deit-s")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="Steps; each round times every loss ten times.")
    parser.add_argument("--output", type=Path, default=RESULTS / "step_overhead_cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = PretrainingSettings()
    model = SynCoForPreTraining(SynCoConfig(backbone=options.backbone, pretraining=asdict(settings))).train()
    calls = {**step_calls(model, options.batch_size), **loss_calls(settings, options.batch_size)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(options.rounds + 1):
        for name, call in calls.items():
            for _ in range(1 if name == "step" else 10):
                taken = seconds(call)
                if number > 0:
                    times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    overhead = 100 * (medians["synco-v2 loss"] - medians["moby loss"]) / medians["step"]
    label = f"{options.backbone}, batch {options.batch_size}"
    findings = [
        Finding(f"{label}: SynCo-v2's loss − MoBY's, of a step", overhead, "%", "≤ 1", "0 %"),
        Finding(
            f"{options.backbone}: moving average by foreach over a loop",
            median_ratio(times["ema foreach"], times["ema loop"]),
            "×",
        ),
    ]
    rows = [{"part": name, "milliseconds": round(1e3 * value, 3)} for name, value in medians.items()]
    settings_used = {"backbone": options.backbone, "batch": options.batch_size, "rounds": options.rounds}
    write_report(options.output, "Synthetic negatives in a step", settings_used, rows, findings, "cpu")


if __name__ == "__main__":
    main()
