"""Measures feature extraction: images of a core-second by batch size, and fp32 against bf16.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python tests/benchmarks/benchmark_feature_extraction.py

About ten minutes on one core; writes tests/benchmarks/results/feature_extraction_cpu.json (`--device cuda`: _cuda).
Images are ready on the device; the data path is benchmark_two_views.py's.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from interleaved import RESULTS, Finding, interleaved_seconds, median_ratio, write_report

from synco_hub.models import SynCoConfig, SynCoModel


def features_of(model: SynCoModel, images: torch.Tensor, dtype: torch.dtype | None) -> Callable[[], torch.Tensor]:
    """One extraction of a batch."""

    @torch.inference_mode()
    def call() -> torch.Tensor:
        with torch.autocast(images.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return model(images).pooler_output

    return call


def measure(
    backbones: Sequence[str], batches: Sequence[int], rounds: int, device: str, image_size: int = 224
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Every batch size in fp32, one of them in bf16, in turns."""
    rows: list[dict[str, Any]] = []
    findings: list[Finding] = []
    for backbone in backbones:
        model: Any = SynCoModel(SynCoConfig(backbone=backbone, image_size=image_size)).eval()
        model.to(device)
        images = {batch: torch.randn(batch, 3, image_size, image_size, device=device) for batch in batches}
        calls = {f"fp32, batch {batch}": features_of(model, images[batch], None) for batch in batches}
        middle = batches[(len(batches) - 1) // 2]
        calls[f"bf16, batch {middle}"] = features_of(model, images[middle], torch.bfloat16)
        times = interleaved_seconds(calls, rounds, device)
        for name, values in times.items():
            batch = int(name.rsplit(" ", 1)[1])
            rate = statistics.median(batch / seconds for seconds in values)
            rows.append({"backbone": backbone, "variant": name, "images_per_second": round(rate, 2)})
            findings.append(Finding(f"{backbone}, {name}", rate, "images/s"))
        ratio = median_ratio(times[f"bf16, batch {middle}"], times[f"fp32, batch {middle}"])
        findings.append(Finding(f"{backbone}, time of bf16 over fp32, batch {middle}", ratio, "×"))
    return rows, findings


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, findings = measure(("deit-s", "swin-t"), options.batches, options.rounds, options.device)
    settings = {"rounds": options.rounds, "image_size": 224}
    path = options.output or RESULTS / f"feature_extraction_{options.device}.json"
    write_report(path, "Feature extraction", settings, rows, findings, options.device)


if __name__ == "__main__":
    main()
