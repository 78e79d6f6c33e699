"""Measures label propagation on a 480p frame, without the network's forward pass: time, memory, the usual form beside.

Run: OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2 python tests/benchmarks/benchmark_label_propagation.py
Takes about a minute; writes tests/benchmarks/results/label_propagation_cpu.json (`--device cuda`: _cuda.json).
Goal: at most 1.5 s a frame on two cores with patches of 16 pixels, memory of one tile whatever the size of the frame.
Measured are the steps that `evaluate video-segmentation` times: DINO's parameters, eight context frames, upsampling,
the mask at 854 x 480. The usual form holds the affinities of all patches of all context frames at once.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleaved import RESULTS, Finding, write_report
from torch import Tensor
from torch.nn import functional as F

from synco_hub.evaluation.label_propagation import LabelPropagation, PropagationSettings, convert_labels_to_mask

OBJECTS, DIM, ROUNDS = 4, 384, 5
GRIDS = {"patch 16": (30, 52, 16), "patch 8": (60, 104, 8)}


def frames(grid: tuple[int, int, int], count: int, device: str) -> list[Tensor]:
    """Features that resemble each other from frame to frame, as a video's do."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(*grid[:2], DIM, generator=generator)
    return [(base + 0.5 * torch.randn(base.shape, generator=generator)).to(device) for _ in range(count)]


def following(grid: tuple[int, int, int], device: str) -> tuple[LabelPropagation, Tensor]:
    """A propagation with a full context, and the next frame."""
    features = frames(grid, 10, device)
    labels = F.one_hot(torch.arange(grid[0] * grid[1]).reshape(grid[:2]) % OBJECTS, OBJECTS).float().to(device)
    propagation = LabelPropagation(features[0], labels)
    for each in features[1:9]:
        propagation.step(each)
    return propagation, features[9]


def ours(propagation: LabelPropagation, features: Tensor, grid: tuple[int, int, int]) -> Tensor:
    size = grid[0] * grid[2], grid[1] * grid[2]
    return convert_labels_to_mask(propagation.step(features), size, size, (480, 854)).cpu()


def usual(context: Tensor, labels: Tensor, features: Tensor, settings: PropagationSettings) -> Tensor:
    """All affinities of all context frames at once, then everything but the five largest set to zero."""
    rows, columns, dim = features.shape
    affinity = torch.exp(context.reshape(-1, dim) @ F.normalize(features, dim=-1).reshape(-1, dim).T / 0.1)
    row, column = torch.arange(rows * columns) // columns, torch.arange(rows * columns) % columns
    near = ((row[:, None] - row).abs() <= settings.radius) & ((column[:, None] - column).abs() <= settings.radius)
    affinity *= near.to(affinity.device).repeat(len(context), 1)
    least = affinity.topk(settings.topk, dim=0).values[-1]
    affinity[affinity < least] = 0
    return (labels.reshape(-1, labels.shape[-1]).T @ (affinity / affinity.sum(dim=0))).T.reshape(rows, columns, -1)


def times(call: Callable[[], object], device: str) -> dict[str, float]:
    """Medians of wall seconds, and of processor seconds, which a busy neighbour does not lengthen."""
    wall, processor = [], []
    for number in range(ROUNDS + 1):
        started = time.perf_counter(), time.process_time()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if number:
            wall.append(time.perf_counter() - started[0])
            processor.append(time.process_time() - started[1])
    return {"wall_s": round(statistics.median(wall), 4), "processor_s": round(statistics.median(processor), 4)}


def measure(grid: tuple[int, int, int], device: str) -> dict[str, Any]:
    propagation, features = following(grid, device)
    context = torch.stack([first for first, _ in (propagation._first, *propagation._previous)])
    labels = torch.stack([second for _, second in (propagation._first, *propagation._previous)])
    settings = propagation.settings
    rows: dict[str, Any] = {
        "grid": grid[:2],
        "ours": times(lambda: ours(propagation, features, grid), device),
    }
    if grid != GRIDS["patch 16"]:
        return rows  # the usual form takes minutes and gigabytes there
    difference = (usual(context, labels, features, settings) - propagation.step(features)).abs().max()
    rows["usual"] = times(lambda: usual(context, labels, features, settings), device)
    rows["largest_difference"] = float(difference)
    return rows


def peak_beyond_context_mb(name: str, which: str) -> float:
    """Megabytes that a process of its own needs at its peak beyond what it held before the step."""
    code = (
        "import sys; sys.path.insert(0, 'tests/benchmarks')\n"
        "from benchmark_label_propagation import *\n"
        f"grid = GRIDS[{name!r}]\n"
        "propagation, features = following(grid, 'cpu')\n"
        "pairs = (propagation._first, *propagation._previous)\n"
        "context, labels = (torch.stack([pair[i] for pair in pairs]) for i in (0, 1))\n"
        "def status(key):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith(key))\n"
        "held = status('VmRSS')\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"  # forget the peak of filling the context
        f"ours(propagation, features, grid) if {which == 'ours'} else "
        "usual(context, labels, features, propagation.settings)\n"
        "print((status('VmHWM') - held) * 1024 / 1e6)"
    )
    root = Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    return round(float(output.stdout), 1)


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    measured = {name: measure(grid, device) for name, grid in GRIDS.items()}
    fine, coarse = measured["patch 8"], measured["patch 16"]
    findings = [
        Finding("480p frame, patches of 16: wall time", coarse["ours"]["wall_s"], "s", "≤ 1.5"),
        Finding("480p frame, patches of 16: processor time", coarse["ours"]["processor_s"], "s"),
        Finding(
            "480p frame, patches of 16: faster than the usual form",
            coarse["usual"]["processor_s"] / coarse["ours"]["processor_s"],
            "×",
        ),
        Finding("480p frame, patches of 8: wall time", fine["ours"]["wall_s"], "s"),
    ]
    if device == "cpu":
        findings += [
            Finding(
                f"480p frame, {name}: memory beyond the context, {which}", peak_beyond_context_mb(name, which), "MB"
            )
            for name, which in (("patch 16", "ours"), ("patch 16", "usual"), ("patch 8", "ours"))
        ]
    rows = [{"patches": name, **each} for name, each in measured.items()]
    settings = {"rounds": ROUNDS, "context_frames": 8, "objects": OBJECTS, "dim": DIM}
    path = RESULTS / f"label_propagation_{device}.json"
    write_report(path, "Label propagation in video", settings, rows, findings, device)


if __name__ == "__main__":
    main()
