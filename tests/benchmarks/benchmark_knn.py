"""k-NN for four k: one search in blocks against the usual matmul + topk + one-hot vote repeated for each k.

Run: OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python tests/benchmarks/benchmark_knn.py
Takes about six minutes; writes tests/benchmarks/results/knn_cpu.json (``--device cuda``: knn_cuda.json).
Expected on one CPU thread: 4 to 7 times faster, below 1 GB beyond the features, seconds linear in the bank.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleaved import RESULTS, Finding, interleaved_seconds, median_ratio, seconds, write_report
from torch import Tensor
from torch.nn import functional as F

from synco_hub.evaluation import DEFAULT_KS, knn_accuracy

NUM_CLASSES = 1000
DIM = 384
ROUNDS = 5


def clustered_features(count: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Features around class centres, near enough for some and far enough for other neighbours to be of the class."""
    centres = torch.randn(NUM_CLASSES, DIM, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
    values = centres[labels] + 4.0 * torch.randn(count, DIM, generator=generator)
    return values.to(device), labels.to(device)


def usual_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int) -> float:
    """The common implementation for one k: blocks of queries, whole-bank topk, one-hot votes, full sort."""
    bank, queries = F.normalize(bank), F.normalize(queries)
    right = 0
    for start in range(0, len(queries), 500):
        nearest = (queries[start : start + 500] @ bank.T).topk(k)
        one_hot = F.one_hot(bank_labels[nearest.indices], NUM_CLASSES).float()
        votes = (one_hot * (nearest.values / 0.07).exp()[:, :, None]).sum(dim=1)
        right += int((votes.sort(dim=1, descending=True).indices[:, 0] == labels[start : start + 500]).sum())
    return 100.0 * right / len(queries)


def compare(bank_size: int, num_queries: int, device: str) -> dict[str, Any]:
    """Interleaved rounds of both, so that a busy machine slows both alike."""
    bank, bank_labels = clustered_features(bank_size, 1, device)
    queries, labels = clustered_features(num_queries, 2, device)

    def ours() -> dict[str, float]:
        return knn_accuracy(bank, bank_labels, queries, labels, DEFAULT_KS, NUM_CLASSES, device=device)

    def usual() -> dict[str, float]:
        return {f"top1_k{k}": usual_accuracy(bank, bank_labels, queries, labels, k) for k in DEFAULT_KS}

    def matmul() -> None:
        for start in range(0, num_queries, 500):
            queries[start : start + 500] @ bank.T

    calls: dict[str, Callable[[], object]] = {"ours": ours, "usual": usual, "matmul_once": matmul}
    times = interleaved_seconds(calls, ROUNDS, device)
    return {
        "bank": bank_size,
        "queries": num_queries,
        "median_s": {name: statistics.median(values) for name, values in times.items()},
        "speedup": median_ratio(times["usual"], times["ours"]),
        "over_matmul": median_ratio(times["ours"], times["matmul_once"]),
        "accuracy_percent": {"ours": ours(), "usual": usual()},
    }


def time_vote(bank_size: int, num_queries: int, device: str) -> dict[str, Any]:
    """Seconds of the vote alone, median of three."""
    bank, bank_labels = clustered_features(bank_size, 1, device)
    queries, labels = clustered_features(num_queries, 2, device)

    def call() -> object:
        return knn_accuracy(bank, bank_labels, queries, labels, DEFAULT_KS, NUM_CLASSES, device=device)

    call()
    median = statistics.median(seconds(call, device) for _ in range(3))
    return {"bank": bank_size, "queries": num_queries, "median_s": median}


def findings(rows: list[dict[str, Any]], device: str) -> list[Finding]:
    """What was promised of the first row's bank."""
    found = []
    for row in rows:
        label = f"{row['bank']:,} × {DIM} bank, {row['queries']:,} queries, four k"
        if "speedup" in row:
            goal = "≥ 5" if device == "cpu" else "≥ 3"
            found.append(Finding(f"{label}: faster than the usual loop over k", row["speedup"], "×", goal))
            found.append(Finding(f"{label}: time of one matrix product alone", row["over_matmul"], "×", "", "1 ×"))
        elif device == "cuda":
            found.append(Finding(label, 1e3 * row["median_s"], "ms"))
    return found


def scaling(device: str) -> list[dict[str, Any]]:
    """Seconds for growing banks and growing query sets, one at a time."""
    rows = []
    for bank_size, num_queries in [
        (50_000, 500),
        (100_000, 500),
        (200_000, 500),
        (400_000, 500),
        (100_000, 1000),
        (100_000, 2000),
    ]:
        kind = "queries" if num_queries > 500 else "bank"
        rows.append({"scaling": kind, **time_vote(bank_size, num_queries, device)})
    return rows


def peak_memory_beyond_features(bank_size: int, num_queries: int) -> float:
    """Gigabytes that a process of its own needs at its peak beyond what it held before the vote."""
    code = (
        "import resource, sys; sys.path.insert(0, 'tests/benchmarks')\n"
        "from benchmark_knn import *\n"
        f"bank, bank_labels = clustered_features({bank_size}, 1, 'cpu')\n"
        f"queries, labels = clustered_features({num_queries}, 2, 'cpu')\n"
        "import psutil; held = psutil.Process().memory_info().rss\n"
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM'))\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"  # forget the peak of making the features
        "knn_accuracy(bank, bank_labels, queries, labels, DEFAULT_KS, NUM_CLASSES)\n"
        "print((peak() - held) / 1e9)"
    )
    root = Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    return float(output.stdout)


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bank", type=int, default=100_000, help="vectors in the bank that both are compared on")
    parser.add_argument("--scaling", action=argparse.BooleanOptionalAction, default=True, help="growing banks, too")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [compare(options.bank, 1_000, options.device)]
    found = findings(rows, options.device)
    rows += scaling(options.device) if options.scaling else []
    if options.scaling and options.device == "cpu":
        memory = peak_memory_beyond_features(200_000, 2_000)
        found.append(Finding("200,000 × 384 bank: memory beyond the features", memory, "GB", "≤ 1"))
    path = options.output or RESULTS / f"knn_{options.device}.json"
    settings = {"dim": DIM, "classes": NUM_CLASSES, "k": list(DEFAULT_KS), "rounds": ROUNDS}
    write_report(path, "Weighted k-NN vote, every k", settings, rows, found, options.device)


if __name__ == "__main__":
    main()
