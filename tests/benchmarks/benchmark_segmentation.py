"""Seconds of an image by the probes of `evaluate segmentation`, beside the network's forward pass.

Run: OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python tests/benchmarks/benchmark_segmentation.py
Takes about three minutes on a CPU; writes tests/benchmarks/results/segmentation_cpu.json (``--device cuda``: _cuda).
Expected: retrieval grows with the memory and is worth it, the linear layers cost next to nothing, and what retrieval
holds beside its memory does not grow with it.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import RESULTS, Finding, interleaved_seconds, write_report
from PIL import Image

from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.patch_labels import PatchLook, PatchMemory, label_pixels, score_patches
from synco_hub.evaluation.segmentation import retrieve_labels, train_linear_heads
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.settings import SegmentationSettings

NUM_CLASSES, SIDE, DIM = 21, 224, 384
ROUNDS = 3
MEMORIES = {"cpu": (10_000, 100_000), "cuda": (100_000, 1_000_000)}


def compare(device: str) -> dict[str, Any]:
    """Interleaved rounds of an image by each probe; pixels included, so that all do the whole work."""
    torch.manual_seed(0)
    model = EvaluatedModel(SynCoModel(SynCoConfig("deit-s")).to(device).eval(), image_processor(SIDE), "deit-s")
    look = PatchLook.of(model, SegmentationSettings(side=SIDE, device=device, progress=False))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (375, 500, 3), dtype=np.uint8))
    largest = max(MEMORIES[device])
    values = torch.randn(largest, DIM).half().to(device)
    labels = torch.rand(largest, NUM_CLASSES).half().to(device)
    (head,) = train_linear_heads(PatchMemory(values[:5000].cpu(), labels[:5000].cpu()), [1e-3], 2, 0, device)

    def by(probe: Any) -> Any:
        def run() -> None:
            (scores,) = score_patches(look, image, [probe])
            label_pixels(scores, (SIDE, round(500 * SIDE / 375)), look.patch, (375, 500))

        return run

    calls = {"forward": by(lambda features: features[:, :NUM_CLASSES]), "linear": by(head)}
    for size in MEMORIES[device]:
        calls[f"memory of {size:,}"] = by(
            lambda features, size=size: retrieve_labels(values[:size], labels[:size], features, 30, 0.02)
        )
    times = interleaved_seconds(calls, ROUNDS, device)
    return {
        "median_s": {name: statistics.median(found) for name, found in times.items()},
        "memory_bytes": {size: size * (DIM + NUM_CLASSES) * 2 for size in MEMORIES[device]},
    }


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    row = compare(options.device)
    forward = row["median_s"]["forward"]
    findings = [
        Finding(f"deit-s, an image by {name}, over forward and pixels", seconds / forward, "×")
        for name, seconds in row["median_s"].items()
        if name != "forward"
    ]
    findings.append(Finding("deit-s, an image: forward and pixels", forward, "s"))
    path = options.output or RESULTS / f"segmentation_{options.device}.json"
    settings = {"side": SIDE, "classes": NUM_CLASSES, "neighbours": 30, "rounds": ROUNDS}
    write_report(path, "Segmentation probes, an image", settings, [row], findings, options.device)


if __name__ == "__main__":
    main()
