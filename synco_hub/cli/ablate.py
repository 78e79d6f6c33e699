"""`synco-hub ablate`: several methods on the same budget and the same seeds, as a table that can be argued with.

Runs are processes of their own, kept where they are finished and measured by k-NN; what was found is written as data,
as tables and as a picture: mean ± standard deviation over the seeds.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from synco_hub.atomic_write import atomic_write
from synco_hub.cli.demo import SETTINGS
from synco_hub.cli.options import AblateOptions, Probe
from synco_hub.cli.processes import run_child
from synco_hub.data import load_dataset
from synco_hub.evaluation.knn import DEFAULT_KS
from synco_hub.evaluation.knn import evaluate as evaluate_knn
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.resume import hash_contents
from synco_hub.features import choose_device
from synco_hub.hub.loading import load_model
from synco_hub.models import SynCoModel
from synco_hub.results import EvaluationResult
from synco_hub.settings import DatasetChoice, KnnSettings

_PLACES = ("--dataset", "--data-dir")
PLAN_FILE = "ablation_plan.json"
RESULT_FILE = "results_knn.json"
UNTRAINED = "untrained"
UNTRAINED_RESULT_FILE = "results_knn_untrained.json"
PROBE_METRIC = "top1_last_epoch"
# What the demonstration's settings once were, and no run can be told any more.
RETIRED_FLAGS = ("--augment-on=reference",)
COLUMNS = ("method", "runs", "mean", "sd", "lowest", "highest", "minutes", "probe_mean", "probe_sd")
PROBES: dict[Probe, str] = {
    "cached": "cached features of centre crops (not the paper's protocol)",
    "full": "the paper's protocol (7.5)",
}


def ablate(options: AblateOptions, choice: DatasetChoice, further: Sequence[str]) -> None:
    """`synco-hub ablate`; what is further given goes to every run."""
    arms = [arm.strip() for arm in options.methods.split(",") if arm.strip()]
    if not arms or options.seeds < 1:
        raise ValueError(
            f"--methods {options.methods!r} with --seeds {options.seeds} is no run: name a method and at least one "
            "seed."
        )
    neighbours = choose_neighbours(options.metric)
    shared = build_shared_flags(choice.dataset, options.max_steps, further)
    streamed = any(flag.startswith("--streaming") for flag in further)
    contents = None if streamed else hash_contents(load_dataset(choice, "train"))
    begun = keep_to_the_plan(options.output_dir, {"flags": shared, "contents": contents})
    pairs = [(seed, arm) for seed in range(options.seeds) for arm in arms]
    runs = []
    for number, (seed, arm) in enumerate(pairs, start=1):
        directory = options.output_dir / run_name(arm, seed)
        if not (directory / RESULT_FILE).is_file():
            print(f"run {number} of {len(pairs)}: {arm}, seed {seed}")
            try:
                run_child(training_command(arm, seed, directory, shared))
            except CalledProcessError:
                if begun and not any(path.is_dir() for path in options.output_dir.iterdir()):
                    # No run began with these flags, so the next call need not keep to them.
                    (options.output_dir / PLAN_FILE).unlink()
                raise
        probe = None if options.probe == "none" else directory / probe_result(options.probe)
        if probe is not None and not probe.is_file():
            print(f"linear probe ({options.probe}) of {arm}, seed {seed}")
            run_child(build_probing_command(options.probe, seed, directory, choice.dataset, further))
        runs.append(read_finished_run(arm, seed, directory, choice, probe, neighbours))
        require_metric(runs[-1], options.metric)
    like = [options.output_dir / run_name(arms[0], seed) for seed in range(options.seeds)]
    runs = [measure_untrained_run(seed, directory, choice, neighbours) for seed, directory in enumerate(like)] + runs
    runs.sort(key=lambda run: [UNTRAINED, *arms].index(run.arm))
    settings = {"max_steps": options.max_steps, "dataset": choice.dataset, "seeds": options.seeds}
    if options.probe != "none":
        settings["probe"] = PROBES[options.probe]
    paths = write_tables(options.output_dir, runs, options.metric, settings)
    print(paths[0].read_text(encoding="utf-8"))
    print(f"wrote {', '.join(str(path) for path in paths)}\n{describe_finding(summarize_runs(runs, options.metric))}")


# The processes that train and probe


def build_shared_flags(dataset: str, max_steps: int, further: Sequence[str]) -> list[str]:
    """The flags of every run: the demonstration's, the budget, and the user's own, which win."""
    settings = {**SETTINGS, "dataset": dataset, "max-steps": str(max_steps)}
    # A run that is stopped continues from here.
    settings |= {"save-strategy": "steps", "save-steps": str(max(max_steps // 4, 1))}
    return [*(f"--{name}={value}" for name, value in settings.items()), *further]


def training_command(arm: str, seed: int, directory: Path, shared: Sequence[str]) -> list[str]:
    """The process that trains one arm with one seed, or continues it."""
    chosen = f"--recipe={arm}" if "/" in arm or arm.endswith((".yaml", ".yml")) else f"--method={arm}"
    resume = ["--resume"] if directory.exists() else []
    flags = [chosen, *shared, f"--seed={seed}", f"--output-dir={directory}", *resume]
    return [sys.executable, "-m", "trainers.pretrain", *flags]


def probe_result(probe: Probe) -> Path:
    """Where a probe's result is, within a run's directory."""
    return Path(f"probe-{probe}") / ("linear_probe_cached.json" if probe == "cached" else "linear_probe.json")


def build_probing_command(probe: Probe, seed: int, run: Path, dataset: str, further: Sequence[str]) -> list[str]:
    """The process that probes one finished run, or continues to; of the user's flags it takes the device."""
    output = run / probe_result(probe).parent
    flags = [f"--model={run}", f"--dataset={dataset}", f"--seed={seed}", f"--output-dir={output}"]
    flags += ["--disable-tqdm=true"]
    flags += ["--cached-features", "--dataloader-num-workers=0"] if probe == "cached" else []
    flags += [flag for flag in further if flag.split("=")[0].replace("_", "-") == "--use-cpu"]
    return [sys.executable, "-m", "trainers.linear_probe", *flags, *(["--resume"] if output.exists() else [])]


def run_name(arm: str, seed: int) -> str:
    """Folder of a run."""
    return f"{arm.replace('/', '-')}-seed{seed}"


def keep_to_the_plan(directory: Path, plan: Mapping[str, Any]) -> bool:
    """Record what all runs share, so that runs of another budget never enter the same table; True where it is new."""
    file = directory / PLAN_FILE
    if file.is_file():
        kept = json.loads(file.read_text())
        earlier, now = set(kept["flags"]), set(plan["flags"])
        if kept.get("contents") is not None and kept["contents"] == plan.get("contents"):
            # The same images, wherever they lie now.
            earlier, now = (_without_places(each["flags"]) for each in (kept, plan))
        retired = sorted(flag for flag in earlier - now if flag.replace("_", "-") in RETIRED_FLAGS)
        if retired:
            raise ValueError(
                f"{directory} holds an ablation that an earlier version began with {', '.join(retired)}, which this "
                "one does not have: its runs cannot be finished alike. Give another --output-dir, or finish it with "
                "the version that began it."
            )
        if earlier != now:
            raise ValueError(
                f"{directory} holds an ablation with other settings (then {', '.join(sorted(earlier - now)) or '-'}; "
                f"now {', '.join(sorted(now - earlier)) or '-'}): give the same ones, or another --output-dir."
            )
        return False
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(plan, indent=2) + "\n")
    return True


def _without_places(flags: Sequence[str]) -> set[str]:
    """Flags without those that say where the data lies."""
    kept: list[str] = []
    for position, flag in enumerate(flags):
        names = [word.split("=")[0].replace("_", "-") for word in (flag, flags[position - 1] if position else "")]
        if names[0] not in _PLACES and not (names[1] in _PLACES and "=" not in flags[position - 1]):
            kept.append(flag)
    return set(kept)


# Their measurement


def choose_neighbours(metric: str) -> list[int] | None:
    """The numbers of neighbours to measure with, so that the metric is among what comes out; None for the usual."""
    named = re.fullmatch(r"(top1|top5|map_11_point|map_integral)_k([1-9]\d*)", metric)
    if named is None:
        raise ValueError(
            f"--metric {metric} is no metric of k-NN: give top1_k<k>, such as top1_k10, top5_k<k>, or, where an image "
            "can have several classes, map_11_point_k<k>."
        )
    number = int(named[2])
    return None if number in DEFAULT_KS else [number]


def require_metric(run: FinishedRun, metric: str) -> None:
    """Refuses a metric that the data do not have."""
    if metric not in run.metrics:
        raise ValueError(f"{run.arm} has no metric {metric!r}: choose one of {', '.join(run.metrics)}.")


def read_finished_run(
    arm: str,
    seed: int,
    directory: Path,
    choice: DatasetChoice,
    probe: Path | None = None,
    neighbours: list[int] | None = None,
) -> FinishedRun:
    """Measure a trained run, or read what was measured; ``probe`` is the result of its linear probe."""
    result = _read_or_measure(directory / RESULT_FILE, neighbours, choice, lambda: _load_trained(directory))
    seconds = json.loads((directory / "pretraining_summary.json").read_text())["seconds"]
    return FinishedRun(arm, seed, dict(result.metrics), float(seconds), None if probe is None else _top1(probe))


def measure_untrained_run(
    seed: int, like: Path, choice: DatasetChoice, neighbours: list[int] | None = None
) -> FinishedRun:
    """Measure random weights of the seed in the architecture of a finished run, beside which the result is kept."""

    def draw() -> EvaluatedModel:
        trained, processor = load_model(str(like))
        torch.manual_seed(seed)
        return EvaluatedModel(SynCoModel(trained.config), processor, UNTRAINED)

    result = _read_or_measure(like / UNTRAINED_RESULT_FILE, neighbours, choice, draw)
    return FinishedRun(UNTRAINED, seed, dict(result.metrics), 0.0)


def _load_trained(directory: Path) -> EvaluatedModel:
    model, processor = load_model(str(directory))
    return EvaluatedModel(model, processor, directory.name)


def _read_or_measure(
    file: Path, neighbours: list[int] | None, choice: DatasetChoice, load: Callable[[], EvaluatedModel]
) -> EvaluationResult:
    """What was measured, or a measurement where there is none with these numbers of neighbours."""
    if file.is_file():
        result = EvaluationResult.load(file, "knn")
        measured = {int(name.rpartition("_k")[2]) for name in result.metrics}
        if measured & set(neighbours or DEFAULT_KS):
            return result
    settings = KnnSettings(k=neighbours, num_workers=0, device=choose_device(), progress=True)
    evaluate_knn(load(), choice, settings).save(file)
    return EvaluationResult.load(file, "knn")


def _top1(file: Path) -> float:
    metrics = EvaluationResult.load(file).metrics
    if PROBE_METRIC not in metrics:
        raise ValueError(f"{file} has no {PROBE_METRIC}: --probe none, or a data set with one label an image.")
    return float(metrics[PROBE_METRIC])


# The table


@dataclass(frozen=True)
class FinishedRun:
    """One run of an ablation.

    Attributes:
        arm: What was varied: a method or a recipe.
        seed: Seed of the run.
        metrics: Metrics by name, in percent.
        seconds: Wall-clock seconds of training.
        probe: Top-1 accuracy of its linear probe in percent, None where it was not probed.
    """

    arm: str
    seed: int
    metrics: Mapping[str, float]
    seconds: float
    probe: float | None = None


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


def summarize_runs(runs: Sequence[FinishedRun], metric: str) -> list[Row]:
    """Summarise the runs of each arm, in the order in which the arms come."""
    table = []
    for arm in dict.fromkeys(run.arm for run in runs):
        own = [run for run in runs if run.arm == arm]
        for run in own:
            require_metric(run, metric)
        values = [run.metrics[metric] for run in own]
        minutes = statistics.fmean(run.seconds for run in own) / 60
        mean, sd = _mean_and_deviation(values)
        probes = [run.probe for run in own if run.probe is not None]
        probed = _mean_and_deviation(probes) if probes else (None, None)
        table.append(Row(arm, len(own), mean, sd, min(values), max(values), minutes, *probed))
    return table


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def describe_finding(rows: Sequence[Row]) -> str:
    """One sentence: which arm is ahead, and whether by more than the seeds scatter."""
    if len(rows) < 2:
        return "One arm alone shows no difference."
    best, second = sorted(rows, key=lambda row: -row.mean)[:2]
    difference = best.mean - second.mean
    if best.sd is None or second.sd is None:
        return f"{best.method} is {difference:.1f} points above {second.method}; one seed shows no scatter."
    error = math.sqrt(best.sd**2 / best.runs + second.sd**2 / second.runs)
    verdict = "more" if difference > 2 * error else "no more"
    return (
        f"{best.method} is {difference:.1f} points above {second.method}, which is {verdict} than twice the standard "
        f"error of that difference ({error:.1f})."
    )


def markdown(rows: Sequence[Row], metric: str, setting: str) -> str:
    """The table for people."""
    lines = [f"{metric} in percent, mean ± standard deviation over seeds. {setting}", ""]
    probed = any(row.probe_mean is not None for row in rows)
    lines += [
        f"| method | {metric} | lowest | highest | seeds | minutes a run |" + " linear probe top-1 |" * probed,
        "| --- | --- | --- | --- | --- | --- |" + " --- |" * probed,
    ]
    for row in rows:
        lines.append(
            f"| {row.method} | {_spread(row.mean, row.sd)} | {row.lowest:.1f} | {row.highest:.1f} | {row.runs} "
            f"| {row.minutes:.1f} |" + f" {_spread(row.probe_mean, row.probe_sd)} |" * probed
        )
    return "\n".join([*lines, "", describe_finding(rows), ""])


def _spread(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def split_at_commas(rows: Sequence[Row]) -> str:
    """The table for spreadsheets."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
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
        (place + 0.2, row.probe_mean, row.probe_sd, "linear probe top-1")
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


def write_tables(directory: Path, runs: Sequence[FinishedRun], metric: str, settings: Mapping[str, Any]) -> list[Path]:
    """Write `ablation.md`, `.json`, `.csv` and `.png`, each whole or not at all."""
    rows = summarize_runs(runs, metric)
    common = ", ".join(f"{name}={value}" for name, value in settings.items())
    data = {
        "metric": metric,
        "settings": dict(settings),
        "rows": [asdict(row) for row in rows],
        "runs": [asdict(run) for run in runs],
        "finding": describe_finding(rows),
    }
    texts = {
        "ablation.md": markdown(rows, metric, f"Same for all: {common}."),
        "ablation.json": json.dumps(data, indent=2, ensure_ascii=False) + "\n",
        "ablation.csv": split_at_commas(rows),
    }
    for name, text in texts.items():
        with atomic_write(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    with atomic_write(directory / "ablation.png") as temporary:
        figure(runs, rows, metric).savefig(temporary, dpi=110)
    return [directory / name for name in (*texts, "ablation.png")]
