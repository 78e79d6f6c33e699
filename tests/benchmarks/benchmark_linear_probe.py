"""Six learning rates side by side against one: seconds of a probing step on images, heads and losses included.

Run: OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python tests/benchmarks/benchmark_linear_probe.py
Takes about three minutes on a CPU; writes tests/benchmarks/results/linear_probe_cpu.json (``--device cuda``: _cuda).
Expected: the frozen backbone dominates, six rates cost at most 1.3 times one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from synco_hub.atomic_write import written_whole
from synco_hub.models import SynCoConfig, SynCoModel
from trainers.classification_arguments import IMAGENET_LEARNING_RATES
from trainers.linear_heads import LinearHeads

NUM_CLASSES = 1000
ROUNDS = 5
RESULTS = Path(__file__).parent / "results"


def step(backbone: nn.Module, heads: LinearHeads, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
    """One step of the probe: frozen features, all heads, all losses, one update."""
    targets = torch.arange(len(images), device=images.device) % NUM_CLASSES
    with torch.no_grad():
        features = backbone(images).pooler_output
    optimizer.zero_grad()
    heads(features, targets)["loss"].backward()
    optimizer.step()


def seconds(device: str, *arguments: object) -> float:
    """Seconds of one step: wall clock on a GPU, processor time on a CPU, which a busy neighbour does not lengthen."""
    if device == "cpu":
        start = time.process_time()
        step(*arguments)  # type: ignore[arg-type]
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step(*arguments)  # type: ignore[arg-type]
    torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(backbone_name: str, batch: int, device: str) -> dict[str, object]:
    """Interleaved rounds of one rate and of the grid."""
    torch.manual_seed(0)
    backbone = SynCoModel(SynCoConfig(backbone=backbone_name)).eval().to(device)
    images = torch.randn(batch, 3, 224, 224, device=device)
    runs = {}
    for count in (1, len(IMAGENET_LEARNING_RATES)):
        heads = LinearHeads(backbone.config.hidden_size, NUM_CLASSES, count).to(device)
        runs[count] = (heads, torch.optim.SGD(heads.parameters(), lr=0.1, momentum=0.9))
    times: dict[int, list[float]] = {count: [] for count in runs}
    for round_number in range(ROUNDS + 1):
        for count, (heads, optimizer) in runs.items():
            spent = seconds(device, backbone, heads, optimizer, images)
            if round_number > 0:
                times[count].append(spent)
    one, six = times.values()
    return {
        "backbone": backbone_name,
        "batch": batch,
        "median_s": {str(count): statistics.median(values) for count, values in times.items()},
        "six_over_one": statistics.median(six) / statistics.median(one),
        "ratio_of_each_round": [b / a for a, b in zip(one, six, strict=True)],
    }


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    batch = 16 if device == "cpu" else 128
    rows = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clock": "wall" if device == "cuda" else "processor time",
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} thread(s)",
        "rounds": ROUNDS,
        "num_classes": NUM_CLASSES,
        "comparison": [compare(name, batch, device) for name in ("deit-s", "swin-t")],
    }
    path = RESULTS / f"linear_probe_{device}.json"
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(rows, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
