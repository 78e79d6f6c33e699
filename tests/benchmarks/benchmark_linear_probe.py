"""Six learning rates side by side against one: seconds of a probing step on images, heads and losses included.

Run: OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python tests/benchmarks/benchmark_linear_probe.py
Takes about three minutes on a CPU; writes tests/benchmarks/results/linear_probe_cpu.json (``--device cuda``: _cuda).
Expected: the frozen backbone dominates, six rates cost at most 1.3 times one.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleaved import RESULTS, Finding, interleaved_seconds, median_ratio, write_report
from torch import nn

from synco_hub.models import SynCoConfig, SynCoModel
from trainers.classification.arguments import IMAGENET_LEARNING_RATES
from trainers.classification.heads import LinearHeads

NUM_CLASSES = 1000
ROUNDS = 5


def step(backbone: nn.Module, heads: LinearHeads, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
    """One step of the probe: frozen features, all heads, all losses, one update."""
    targets = torch.arange(len(images), device=images.device) % NUM_CLASSES
    with torch.no_grad():
        features = backbone(images).pooler_output
    optimizer.zero_grad()
    heads(features, targets)["loss"].backward()
    optimizer.step()


def compare(backbone_name: str, batch: int, device: str) -> dict[str, Any]:
    """Interleaved rounds of one rate and of the grid."""
    torch.manual_seed(0)
    backbone = SynCoModel(SynCoConfig(backbone=backbone_name)).eval().to(device)
    images = torch.randn(batch, 3, 224, 224, device=device)

    def probing_step(count: int) -> Callable[[], None]:
        heads = LinearHeads(backbone.config.hidden_size, NUM_CLASSES, count).to(device)
        optimizer = torch.optim.SGD(heads.parameters(), lr=0.1, momentum=0.9)
        return lambda: step(backbone, heads, optimizer, images)

    counts = {"one": 1, "grid": len(IMAGENET_LEARNING_RATES)}
    times = interleaved_seconds({name: probing_step(count) for name, count in counts.items()}, ROUNDS, device)
    return {
        "backbone": backbone_name,
        "batch": batch,
        "median_s": {name: statistics.median(values) for name, values in times.items()},
        "six_over_one": median_ratio(times["grid"], times["one"]),
    }


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch = 16 if options.device == "cpu" else 128
    rows = [compare(name, batch, options.device) for name in ("deit-s", "swin-t")]
    findings = [
        Finding(f"{row['backbone']}: six learning rates over one", row["six_over_one"], "×", "≤ 1.3", "1 ×")
        for row in rows
    ]
    path = options.output or RESULTS / f"linear_probe_{options.device}.json"
    settings = {"batch": batch, "classes": NUM_CLASSES, "rounds": ROUNDS}
    write_report(path, "Linear probe, a step on images", settings, rows, findings, options.device)


if __name__ == "__main__":
    main()
