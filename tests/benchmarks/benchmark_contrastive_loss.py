"""Measures the contrastive losses: time and peak memory of forward and backward of one direction, side by side.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python tests/benchmarks/benchmark_contrastive_loss.py

About eight minutes on one core; writes tests/benchmarks/results/contrastive_loss_cpu.json (`--device cuda`: _cuda).
Peak memory is the largest sum of tensor bytes alive at once beyond the inputs, from the allocation events of
`torch.profiler`; on a GPU the allocator's own peak.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleaved import RESULTS, Finding, interleaved_seconds, median_ratio, write_report
from torch import Tensor
from torch.nn import functional as F

from trainers.info_nce import info_nce
from trainers.synthetic_negatives import STRATEGIES, SyntheticNegatives

DIM, TEMPERATURE = 256, 0.2
NUM_HARD_NEGATIVES, COUNT, STEP = 256, 128, 0.01
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
PLAIN, FUSED = "moby, plain", "synco-v2, fused"
BOTH = "synco-v2, both directions in one call, half of it"
LOOPS, READABLE = "synco-v2, autograd loops", "synco-v2, readable"


def plain_moby(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """MoBY's loss as one writes it: concatenate, cross-entropy, autograd."""
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


def autograd_loops(query: Tensor, key: Tensor, columns: Tensor) -> Tensor:
    """SynCo-v2's loss with the cost structure of the published code.

    That is: the queue holds columns; hard negatives are gathered through its transpose; types 5 and 6 take one
    gradient a synthetic negative, in a loop; the logits grow by a concatenation for each type. Counts are the paper's.
    """
    logits = [(query * key).sum(1, keepdim=True), query @ columns]
    negatives = logits[1]
    hardest = negatives.detach().clone().topk(NUM_HARD_NEGATIVES, dim=1, sorted=False).indices

    def pick() -> Tensor:
        choice = torch.randint(NUM_HARD_NEGATIVES, (len(query), COUNT), device=query.device)
        return columns.T[hardest.gather(1, choice)].clone()

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(len(query), COUNT, 1, device=query.device).uniform_(low, high)

    def by_gradient(of_gradient: Callable[[Tensor], Tensor]) -> Tensor:
        chosen, perturbed = pick(), []
        for turn in range(COUNT):
            negative = chosen[:, turn].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(torch.einsum("bd,bd->b", query, negative).sum(), negative)
            perturbed.append((negative + STEP * of_gradient(gradient)).detach())
        return torch.stack(perturbed, dim=1)

    q, unused = query.detach().unsqueeze(1), query.detach()
    for synthetic in (
        lambda: STRATEGIES["interpolation"](q, pick(), unused, uniform(0, 0.5)),
        lambda: STRATEGIES["extrapolation"](q, pick(), unused, uniform(1, 1.5)),
        lambda: STRATEGIES["mixup"](q, pick(), pick(), uniform(0, 1)),
        lambda: pick() + STEP * torch.randn(len(query), COUNT, DIM, device=query.device),
        lambda: by_gradient(torch.Tensor.clone),
        lambda: by_gradient(torch.Tensor.sign),
    ):
        vectors = F.normalize(synthetic(), dim=-1).detach()
        negatives = torch.cat([negatives, torch.einsum("bd,bnd->bn", query, vectors)], dim=1)
    together = torch.cat([logits[0], negatives], dim=1) / TEMPERATURE
    return F.cross_entropy(together, torch.zeros(len(query), dtype=torch.long, device=query.device))


VARIANTS: dict[str, Loss] = {
    PLAIN: plain_moby,
    "moby, fused": lambda query, key, queue: info_nce(query, key, queue).loss,
    LOOPS: autograd_loops,
    READABLE: SyntheticNegatives().readable_loss,
    FUSED: SyntheticNegatives().loss,
}
SLOW = (LOOPS, READABLE)


def both_directions(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """A step's loss, which an accelerator computes in one call."""
    return SyntheticNegatives().contrast_both((query, key, queue), (query, key, queue)).loss


def lightly_variants() -> dict[str, Loss]:
    """The InfoNCE of `lightly`, if that library is installed; its memory bank is the queue."""
    if importlib.util.find_spec("lightly") is None:
        return {}
    from lightly.loss import NTXentLoss

    def loss(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        criterion = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=queue.shape)
        criterion.memory_bank.bank = queue  # it replaces its oldest rows by the keys
        return criterion(query, key)

    return {"moby, lightly": loss}


def inputs(name: str, batch: int, queue_size: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Unit queries, keys near them, and a queue in the layout that the variant keeps it in."""
    generator = torch.Generator().manual_seed(batch)
    query, noise = torch.randn(2, batch, DIM, generator=generator)
    queue = torch.randn(queue_size, DIM, generator=generator)
    query, key, queue = (F.normalize(each, dim=1) for each in (query, F.normalize(query, dim=1) + 0.05 * noise, queue))
    queue = queue.T.contiguous() if name == LOOPS else queue
    return query.to(device).requires_grad_(), key.to(device), queue.to(device)


def run(loss: Loss, tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    """One forward and backward pass."""
    torch.autograd.grad(loss(*tensors), tensors[0])


def peak_mebibytes(loss: Loss, tensors: tuple[Tensor, Tensor, Tensor]) -> float:
    """Follow every allocation of one pass and return the highest level above the start."""
    run(loss, tensors)
    if tensors[0].is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(loss, tensors)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
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


def measure(batch: int, queue_size: int, rounds: int, device: str, slow: bool) -> list[dict[str, Any]]:
    """Measure the variants at one batch and queue size."""
    known = VARIANTS | lightly_variants() | ({} if device == "cpu" else {BOTH: both_directions})
    variants = {name: loss for name, loss in known.items() if slow or name not in SLOW}
    tensors = {name: inputs(name, batch, queue_size, device) for name in variants}

    def call(name: str) -> Callable[[], None]:
        return lambda: run(variants[name], tensors[name])

    times = interleaved_seconds({name: call(name) for name in variants}, rounds, device, settled=True)
    if BOTH in times:
        times[BOTH] = [value / 2 for value in times[BOTH]]
    rows = []
    for name, loss in variants.items():
        ordered = sorted(1e3 * value for value in times[name])
        row: dict[str, Any] = {
            "variant": name,
            "batch": batch,
            "queue": queue_size,
            "milliseconds": round(statistics.median(ordered), 3),
            "quartiles": [round(ordered[len(ordered) // 4], 3), round(ordered[3 * len(ordered) // 4], 3)],
            "times_plain_moby": round(median_ratio(times[name], times[PLAIN]), 3),
            "peak_mib": round(peak_mebibytes(loss, tensors[name]), 2),
        }
        if slow:
            row["faster_than_readable"] = round(median_ratio(times[READABLE], times[name]), 2)
            row["faster_than_autograd_loops"] = round(median_ratio(times[LOOPS], times[name]), 2)
        rows.append(row)
    return rows


def findings(rows: list[dict[str, Any]]) -> list[Finding]:
    """The promised ratios. Floor: MoBY's own loss, which the synthetic negatives can only add to."""
    bounds = {128: ("≤ 5", "≤ 15"), 512: ("≤ 6", "≤ 50")}
    found = []
    for row in rows:
        batch, name = row["batch"], row["variant"]
        if name == BOTH:
            label = f"{name}, batch {batch}, queue {row['queue']}"
            found.append(Finding(f"{label}: time of MoBY's loss", row["times_plain_moby"], "×"))
            if "faster_than_readable" in row:
                goal = "≥ 1"
                found.append(Finding(f"{label}: faster than readable", row["faster_than_readable"], "×", goal))
        if name != FUSED or "faster_than_autograd_loops" not in row:
            continue
        time_goal, memory_goal = bounds.get(batch, ("", ""))
        label = f"{name}, batch {batch}, queue {row['queue']}"
        found += [
            Finding(f"{label}: time of MoBY's loss", row["times_plain_moby"], "×", time_goal, "1 ×: MoBY's loss"),
            Finding(f"{label}: faster than autograd loops", row["faster_than_autograd_loops"], "×", "≥ 12"),
            Finding(f"{label}: peak memory", row["peak_mib"], "MiB", memory_goal),
        ]
    return found


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512], help="batch sizes with every variant")
    parser.add_argument("--rounds", type=int, default=21, help="turns that each variant is timed")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--scaling", action=argparse.BooleanOptionalAction, default=True, help="larger sizes, too")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [row for batch in options.batch for row in measure(batch, 4096, options.rounds, options.device, True)]
    if options.scaling:
        for batch, queue_size in ((2048, 4096), (128, 16384), (128, 65536)):
            rows += measure(batch, queue_size, 5, options.device, slow=False)
    settings = {
        "dim": DIM,
        "num_hard_negatives": NUM_HARD_NEGATIVES,
        "synthetic": "6 x 128",
        "dtype": "float32",
        "rounds": options.rounds,
    }
    path = options.output or RESULTS / f"contrastive_loss_{options.device}.json"
    title = "Contrastive loss, forward and backward of one direction"
    write_report(path, title, settings, rows, findings(rows), options.device)


if __name__ == "__main__":
    main()
