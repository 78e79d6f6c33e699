"""How every benchmark here measures: variants take turns in one process, medians count, the machine is named.

A busy neighbour slows all variants of a round alike, so ratios hold where seconds do not.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from synco_hub.atomic_write import atomic_write
from synco_hub.results import library_versions

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Finding:
    """One line of BENCHMARKS.md.

    Attributes:
        what: What was measured, against what.
        measured: The number.
        unit: `×`, `%`, `ms`, `MiB`, `images/s`, ….
        goal: `≤ 5` or `≥ 12`, in the same unit; empty where nothing was promised.
        floor: What theory or hardware allows at best, where it is known.
    """

    what: str
    measured: float
    unit: str
    goal: str = ""
    floor: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        return self.measured <= float(bound) if sign == "≤" else self.measured >= float(bound)


def seconds(call: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call: processor time on a CPU, which a busy neighbour does not lengthen, wall clock on a GPU."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved_seconds(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu", warmup: int = 1, settled: bool = False
) -> dict[str, list[float]]:
    """Time the variants in turns.

    Args:
        calls: What to time, by name.
        rounds: Turns that count.
        device: `cpu` or `cuda`.
        warmup: Turns before them.
        settled: Call each variant once untimed in each turn before it is timed, so that none pays for the caches as
            its neighbour left them: for calls of milliseconds beside calls of half a second.

    Returns:
        By name, the seconds of each round.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + rounds):
        for name, call in calls.items():
            if settled:
                call()
            spent = seconds(call, device)
            if turn >= warmup:
                times[name].append(spent)
    return times


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the numbers were measured on."""
    if device == "cuda":
        return {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "processor time",
    }


def write_report(
    path: Path, title: str, settings: dict[str, Any], rows: list[dict[str, Any]], findings: list[Finding], device: str
) -> None:
    """Write one benchmark's JSON whole, and print what it found."""
    report = {
        "benchmark": title,
        "date": date.today().isoformat(),
        "settings": settings,
        "machine": machine(device),
        "versions": library_versions(),
        "findings": [{**asdict(finding), "met": finding.met} for finding in findings],
        "rows": rows,
    }
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    for finding in findings:
        verdict = {True: "met", False: "NOT met", None: ""}[finding.met]
        print(f"{finding.what:70s} {finding.measured:10.3f} {finding.unit:8s} {finding.goal:8s} {verdict}")
    print(f"wrote {path}")
