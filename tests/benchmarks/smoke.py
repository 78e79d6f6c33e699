"""Holds the main ratios in CI: `make bench-smoke`, half a minute.

The margins are generous, because this asks whether something broke, not how fast the machine is: the loss may cost 8
times MoBY's (measured: about 5), must beat autograd loops by 6 (15) and the vote must beat the usual one by 2.5 (6).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from benchmark_contrastive_loss import FUSED, LOOPS, PLAIN, VARIANTS, inputs, run
from benchmark_knn import compare
from interleaved import Finding, interleaved_seconds, median_ratio


def loss_findings(batch: int = 512, rounds: int = 3) -> list[Finding]:
    """The fused loss against MoBY's and against autograd loops."""
    tensors = {name: inputs(name, batch, 4096, "cpu") for name in (PLAIN, FUSED, LOOPS)}

    def call(name: str) -> Callable[[], None]:
        return lambda: run(VARIANTS[name], tensors[name])

    times = interleaved_seconds({name: call(name) for name in tensors}, rounds)
    return [
        Finding(f"fused loss over MoBY's, batch {batch}", median_ratio(times[FUSED], times[PLAIN]), "×", "≤ 8"),
        Finding(
            f"autograd loops over the fused loss, batch {batch}", median_ratio(times[LOOPS], times[FUSED]), "×", "≥ 6"
        ),
    ]


def main() -> None:
    """Measure in short, print, and fail if a ratio is lost."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    findings = [
        *loss_findings(),
        Finding("usual vote over ours", compare(20_000, 500, "cpu")["speedup"], "×", "≥ 2.5"),
    ]
    for finding in findings:
        print(f"{finding.what:50s} {finding.measured:7.2f} {finding.unit} (goal {finding.goal})")
    lost = [finding.what for finding in findings if not finding.met]
    if lost:
        sys.exit(f"lost: {'; '.join(lost)}")


if __name__ == "__main__":
    main()
