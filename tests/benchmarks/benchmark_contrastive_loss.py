"""Measures the contrastive losses on CPU: time and peak memory of forward and backward, side by side.

    OMP_WAIT_POLICY=passive python tests/benchmarks/benchmark_contrastive_loss.py

About three minutes on one core; writes tests/benchmarks/results/contrastive_loss_cpu.json and prints it as a table.

Time is CPU time of the process on one thread, the median over rounds in which the variants take turns, so that a busy
machine disturbs all alike: read the ratios. Peak memory is the largest sum of tensor bytes alive at once beyond the
inputs, from the allocation events of `torch.profiler`.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.info_nce import info_nce
from trainers.synthetic_negatives import STRATEGIES, SyntheticNegatives

NUM_NEGATIVES, DIM, TEMPERATURE = 4096, 256, 0.2
NUM_HARD_NEGATIVES, COUNT, STEP = 256, 128, 0.01
RESULTS = Path(__file__).parent / "results" / "contrastive_loss_cpu.json"
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain_moby(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """MoBY's loss as one writes it: concatenate, cross-entropy, autograd."""
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))


def autograd_loops(query: Tensor, key: Tensor, columns: Tensor) -> Tensor:
    """SynCo-v2's loss in the style of published code: a queue of columns, types 5 and 6 in loops of autograd."""
    detached = query.detach()
    hardest = (detached @ columns).topk(NUM_HARD_NEGATIVES, dim=1).indices

    def pick() -> Tensor:
        choice = torch.randint(NUM_HARD_NEGATIVES, (len(query), COUNT))
        return columns.T[hardest.gather(1, choice)]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(len(query), COUNT, 1).uniform_(low, high)

    q, unused = detached.unsqueeze(1), detached
    synthetic = [
        STRATEGIES["interpolation"](q, pick(), unused, uniform(0, 0.5)),
        STRATEGIES["extrapolation"](q, pick(), unused, uniform(1, 1.5)),
        STRATEGIES["mixup"](q, pick(), pick(), uniform(0, 1)),
        pick() + STEP * torch.randn(len(query), COUNT, DIM),
    ]
    for of_gradient in (torch.Tensor.clone, torch.Tensor.sign):
        negatives, perturbed = pick(), []
        for turn in range(COUNT):
            negative = negatives[:, turn].clone().requires_grad_()
            (gradient,) = torch.autograd.grad((detached * negative).sum(), negative)
            perturbed.append((negative + STEP * of_gradient(gradient)).detach())
        synthetic.append(torch.stack(perturbed, dim=1))
    logits = [(query * key).sum(1, keepdim=True), query @ columns]
    logits += [torch.einsum("bd,bnd->bn", query, F.normalize(vectors, dim=-1)) for vectors in synthetic]
    return F.cross_entropy(torch.cat(logits, dim=1) / TEMPERATURE, torch.zeros(len(query), dtype=torch.long))


VARIANTS: dict[str, Loss] = {
    "moby, plain": plain_moby,
    "moby, fused": lambda query, key, queue: info_nce(query, key, queue).loss,
    "synco-v2, autograd loops": autograd_loops,
    "synco-v2, readable": SyntheticNegatives().readable_loss,
    "synco-v2, fused": SyntheticNegatives().loss,
    "synco-v2, fused, marginal noise": SyntheticNegatives(noise="marginal").loss,
}


def inputs(name: str, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns unit queries, keys near them, and a queue in the layout that the variant keeps it in."""
    generator = torch.Generator().manual_seed(batch)
    query, noise = torch.randn(2, batch, DIM, generator=generator)
    queue = torch.randn(NUM_NEGATIVES, DIM, generator=generator)
    query, key, queue = (F.normalize(each, dim=1) for each in (query, F.normalize(query, dim=1) + 0.05 * noise, queue))
    return query.requires_grad_(), key, queue.T.contiguous() if VARIANTS[name] is autograd_loops else queue


def run(loss: Loss, tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    """One forward and backward pass."""
    torch.autograd.grad(loss(*tensors), tensors[0])


def cpu_milliseconds(batch: int, rounds: int) -> dict[str, list[float]]:
    """Times the variants in turns, after one turn to warm up."""
    tensors = {name: inputs(name, batch) for name in VARIANTS}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(rounds + 1):
        for name, loss in VARIANTS.items():
            start = time.process_time()
            run(loss, tensors[name])
            if turn:
                times[name].append(1000 * (time.process_time() - start))
    return times


def peak_mebibytes(loss: Loss, tensors: tuple[Tensor, Tensor, Tensor]) -> float:
    """Follows every allocation of one pass and returns the highest level above the start."""
    run(loss, tensors)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run(loss, tensors)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    allocations = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    level = peak = 0
    for event in allocations:
        level += event["args"]["Bytes"]
        peak = max(peak, level)
    return peak / 2**20


def measure(batch: int, rounds: int) -> list[dict[str, Any]]:
    """Measures every variant at one batch size."""
    times = {name: sorted(each) for name, each in cpu_milliseconds(batch, rounds).items()}
    medians = {name: statistics.median(each) for name, each in times.items()}
    peaks = {name: peak_mebibytes(loss, inputs(name, batch)) for name, loss in VARIANTS.items()}
    return [
        {
            "variant": name,
            "batch": batch,
            "cpu_ms": round(medians[name], 2),
            "cpu_ms_quartiles": [round(each[len(each) // 4], 2), round(each[3 * len(each) // 4], 2)],
            "times_plain_moby": round(medians[name] / medians["moby, plain"], 2),
            "faster_than_readable": round(medians["synco-v2, readable"] / medians[name], 2),
            "faster_than_autograd_loops": round(medians["synco-v2, autograd loops"] / medians[name], 2),
            "peak_mib": round(peaks[name], 2),
            "peak_of_readable": round(peaks[name] / peaks["synco-v2, readable"], 4),
        }
        for name, each in times.items()
    ]


def processor() -> str:
    """Returns the processor's name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(rows: list[dict[str, Any]]) -> str:
    """Renders the rows for people."""
    lines = [
        f"{'variant':32s} {'batch':>5s} {'cpu ms':>9s} {'x moby':>7s} {'vs read':>8s} {'vs loops':>8s} {'MiB':>8s}"
    ]
    lines += [
        f"{row['variant']:32s} {row['batch']:5d} {row['cpu_ms']:9.2f} {row['times_plain_moby']:7.2f}"
        f" {row['faster_than_readable']:8.2f} {row['faster_than_autograd_loops']:8.2f} {row['peak_mib']:8.2f}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures, writes the JSON whole, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=15, help="turns that each variant is timed")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [row for batch in arguments.batch for row in measure(batch, arguments.rounds)]
    report = {
        "benchmark": "contrastive loss, forward and backward, one direction",
        "date": date.today().isoformat(),
        "settings": {
            "num_negatives": NUM_NEGATIVES,
            "dim": DIM,
            "num_hard_negatives": NUM_HARD_NEGATIVES,
            "synthetic": "6 x 128",
            "dtype": "float32",
            "rounds": arguments.rounds,
            "time": "median process CPU time, one thread, variants interleaved",
            "memory": "peak of live tensor bytes beyond the inputs, allocation events of torch.profiler",
        },
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "rows": rows,
    }
    partial = arguments.output.with_suffix(".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(arguments.output)
    print(table(rows))


if __name__ == "__main__":
    main()
