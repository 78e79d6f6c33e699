"""The table of an ablation: means, their scatter over seeds and a sentence, for people, spreadsheets and programs."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import t as student

from synco_hub.atomic_write import atomic_write

PROBE = "linear probe top-1"
# The arm that has no seed.
PIXELS = "pixels"
COLUMNS = ("method", "runs", "mean", "sd", "lowest", "highest", "minutes", "probe_mean", "probe_sd")
# What is left out of data where arms have equal steps.
OF_EQUAL_TIME = ("steps", "seconds", "time_ratio")
# How far from 1 the ratio of times may be that is still called equal.
_EQUAL_TIME = 0.1


@dataclass(frozen=True)
class FinishedRun:
    """One run of an ablation.

    Attributes:
        arm: What was varied: a method or a recipe.
        seed: Seed of the run.
        metrics: Metrics by name, in percent.
        seconds: Wall-clock seconds of training.
        probe: Top-1 accuracy of its linear probe in percent, None where it was not probed.
        steps: Optimizer steps, where arms have equal time and each steps of its own, else None.
    """

    arm: str
    seed: int
    metrics: Mapping[str, float]
    seconds: float
    probe: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table; the standard deviation is the sample's (n − 1), None for a single run.

    Attributes:
        method: The arm.
        runs: Number of seeds.
        mean: Mean of the metric over the seeds.
        sd: Standard deviation of the metric over the seeds.
        lowest: Worst seed.
        highest: Best seed.
        minutes: Mean training time.
        probe_mean: Mean top-1 accuracy of the linear probes, None where none was made.
        probe_sd: Standard deviation of it over the seeds.
        steps: Optimizer steps of a run, where arms have equal time, else None.
        seconds: Mean training time then, in seconds.
    """

    method: str
    runs: int
    mean: float
    sd: float | None
    lowest: float
    highest: float
    minutes: float
    probe_mean: float | None = None
    probe_sd: float | None = None
    steps: int | None = None
    seconds: float | None = None


def require_metric(run: FinishedRun, metric: str) -> None:
    """Refuses a metric that the data do not have."""
    if metric not in run.metrics:
        raise ValueError(f"{run.arm} has no metric {metric!r}: choose one of {', '.join(run.metrics)}.")


def summarize_runs(runs: Sequence[FinishedRun], metric: str) -> list[Row]:
    """Summarise the runs of each arm, in the order in which the arms come."""
    table = []
    for arm in dict.fromkeys(run.arm for run in runs):
        own = [run for run in runs if run.arm == arm]
        for run in own:
            require_metric(run, metric)
        values = [run.metrics[metric] for run in own]
        seconds = statistics.fmean(run.seconds for run in own)
        mean, sd = _mean_and_deviation(values)
        probes = [run.probe for run in own if run.probe is not None]
        probed = _mean_and_deviation(probes) if probes else (None, None)
        row = Row(arm, len(own), mean, sd, min(values), max(values), seconds / 60, *probed)
        table.append(row if own[0].steps is None else replace(row, steps=own[0].steps, seconds=seconds))
    return table


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Difference:
    """What an arm has more than the arm it is compared with, seed by seed.

    Attributes:
        method: The arm.
        reference: The arm it is compared with.
        metric: The k-NN accuracy, or `PROBE`.
        pairs: Seeds that both have.
        mean: Mean of the differences in points.
        half_width: Half of Student's interval of 95 %; None for a single pair.
        time_ratio: Training time over the reference's, where arms have equal time, else None.
    """

    method: str
    reference: str
    metric: str
    pairs: int
    mean: float
    half_width: float | None
    time_ratio: float | None = None

    def describe(self) -> str:
        """The verdict, in a sentence."""
        time = ""
        if self.time_ratio is not None:
            kind = "equal" if abs(self.time_ratio - 1) <= _EQUAL_TIME else "unequal"
            time = f" at {kind} time ({self.time_ratio:.2f} times the seconds)"
        amount = f"{self.method} − {self.reference}{time}: {self.mean:+.1f} points of {self.metric}"
        if self.half_width is None:
            return f"{amount}; one seed shows no scatter."
        low, high = self.mean - self.half_width, self.mean + self.half_width
        verdict = "above" if low > 0 else "below" if high < 0 else "no difference shown"
        return f"{amount}, 95 % interval {low:+.1f} to {high:+.1f} over {self.pairs} paired seeds: {verdict}."


def compare_pairs(runs: Sequence[FinishedRun], metric: str, reference: str) -> list[Difference]:
    """Every other arm against the reference, by seeds, of which each draws the same weights and views for all.

    Pixels have no seed, and are compared with every seed of the reference.
    """
    base = {run.seed: run for run in runs if run.arm == reference}
    found = []
    for name in (metric, PROBE):
        for arm in dict.fromkeys(run.arm for run in runs if run.arm != reference):
            own = [run for run in runs if run.arm == arm]
            pairs = [(run, other) for run in own for other in base.values() if arm == PIXELS or run.seed == other.seed]
            values = [(_value(one, name), _value(other, name)) for one, other in pairs]
            differences = [one - other for one, other in values if one is not None and other is not None]
            if not differences:
                continue
            mean, sd = _mean_and_deviation(differences)
            factor = student.ppf(0.975, len(differences) - 1) / math.sqrt(len(differences)) if sd is not None else 0
            half_width = None if sd is None else float(factor) * sd
            ratio = _compare_time(pairs)
            found.append(Difference(arm, reference, name, len(differences), mean, half_width, ratio))
    return found


def _compare_time(pairs: Sequence[tuple[FinishedRun, FinishedRun]]) -> float | None:
    """How many times the reference's seconds an arm took, where its steps were chosen by time."""
    if any(run.steps is None for pair in pairs for run in pair):
        return None
    return sum(one.seconds for one, _ in pairs) / sum(other.seconds for _, other in pairs)


def _value(run: FinishedRun, metric: str) -> float | None:
    return run.probe if metric == PROBE else run.metrics[metric]


def markdown(rows: Sequence[Row], metric: str, setting: str, differences: Sequence[Difference] = ()) -> str:
    """The table for people."""
    lines = [f"{metric} in percent, mean ± standard deviation over seeds. {setting}", ""]
    probed = any(row.probe_mean is not None for row in rows)
    timed = any(row.steps is not None for row in rows)
    lines += [
        f"| method | {metric} | lowest | highest | seeds | minutes a run |"
        + " steps | seconds a run |" * timed
        + f" {PROBE} |" * probed,
        "| --- | --- | --- | --- | --- | --- |" + " --- | --- |" * timed + " --- |" * probed,
    ]
    for row in rows:
        steps = " – | – |" if row.seconds is None else f" {row.steps} | {row.seconds:.1f} |"
        lines.append(
            f"| {row.method} | {_spread(row.mean, row.sd)} | {row.lowest:.1f} | {row.highest:.1f} | {row.runs} "
            f"| {row.minutes:.1f} |" + steps * timed + f" {_spread(row.probe_mean, row.probe_sd)} |" * probed
        )
    return "\n".join([*lines, "", *(f"- {difference.describe()}" for difference in differences), ""])


def _spread(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def split_at_commas(rows: Sequence[Row]) -> str:
    """The table for spreadsheets."""
    text = io.StringIO()
    timed = any(row.steps is not None for row in rows)
    columns = (*COLUMNS, "steps", "seconds") if timed else COLUMNS
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)  # None becomes an empty cell
    return text.getvalue()


def figure(runs: Sequence[FinishedRun], rows: Sequence[Row], metric: str) -> Figure:
    """Means with their standard deviation, and each seed as a dot; the linear probes beside, where there are any."""
    drawn = Figure(figsize=(max(5.0, 1.2 * len(rows) + 2), 4), layout="constrained")
    FigureCanvasAgg(drawn)
    axis = drawn.subplots()
    places = range(len(rows))
    probed = any(row.probe_mean is not None for row in rows)
    width = 0.4 if probed else 0.8
    bars = [(place - (0.2 if probed else 0.0), row.mean, row.sd, metric) for place, row in enumerate(rows)]
    bars += [
        (place + 0.2, row.probe_mean, row.probe_sd, PROBE)
        for place, row in enumerate(rows)
        if row.probe_mean is not None
    ]
    for kind in dict.fromkeys(bar[3] for bar in bars):
        x, means, deviations, _ = zip(*(bar for bar in bars if bar[3] == kind), strict=True)
        axis.bar(x, means, width, yerr=[sd or 0.0 for sd in deviations], capsize=4, alpha=0.6, label=kind)
    for place, row in enumerate(rows):
        own = [run for run in runs if run.arm == row.method]
        probes = [run.probe for run in own if run.probe is not None]
        axis.plot([place - (0.2 if probed else 0.0)] * len(own), [run.metrics[metric] for run in own], "k.")
        axis.plot([place + 0.2] * len(probes), probes, "k.")
    axis.set_xticks(list(places), [row.method for row in rows], rotation=20 if len(rows) > 4 else 0)
    axis.set_ylabel("accuracy (%)" if probed else f"{metric} (%)")
    if probed:
        axis.legend()
    axis.grid(axis="y", alpha=0.3)
    return drawn


def _to_data(item: FinishedRun | Row | Difference) -> dict[str, Any]:
    return {name: value for name, value in asdict(item).items() if value is not None or name not in OF_EQUAL_TIME}


def write_tables(
    directory: Path, runs: Sequence[FinishedRun], metric: str, settings: Mapping[str, Any], reference: str
) -> list[Path]:
    """Write `ablation.md`, `.json`, `.csv` and `.png`, each whole or not at all."""
    rows = summarize_runs(runs, metric)
    differences = compare_pairs(runs, metric, reference)
    common = ", ".join(f"{name}={value}" for name, value in settings.items())
    data = {
        "metric": metric,
        "settings": dict(settings),
        "rows": [_to_data(row) for row in rows],
        "runs": [_to_data(run) for run in runs],
        "differences": [{**_to_data(each), "verdict": each.describe()} for each in differences],
    }
    texts = {
        "ablation.md": markdown(rows, metric, f"Same for all: {common}.", differences),
        "ablation.json": json.dumps(data, indent=2, ensure_ascii=False) + "\n",
        "ablation.csv": split_at_commas(rows),
    }
    for name, text in texts.items():
        with atomic_write(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with atomic_write(directory / "ablation.png") as temporary:
        figure(runs, rows, metric).savefig(temporary, dpi=110)
    return [directory / name for name in (*texts, "ablation.png")]
