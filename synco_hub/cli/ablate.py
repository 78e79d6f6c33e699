"""`synco-hub ablate`: several methods on the same budget and the same seeds, as a table that can be argued with.

Runs are processes of their own, kept where they are finished and measured by k-NN; what was found is written as data,
as tables and as a picture: mean ± standard deviation over the seeds.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import torch

from synco_hub.atomic_write import atomic_write
from synco_hub.cli.ablation_tables import FinishedRun, describe_finding, require_metric, summarize_runs, write_tables
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

_SYNTHESIS_OF_DEMO = [f"--{name}={SETTINGS[name]}" for name in SETTINGS if name.startswith(("num-", "queue-"))]
PLAN_FILE = "ablation_plan.json"
RESULT_FILE = "results_knn.json"
UNTRAINED = "untrained"
UNTRAINED_RESULT_FILE = "results_knn_untrained.json"
PROBE_METRIC = "top1_last_epoch"
# What the demonstration's settings once were, and no run can be told any more.
RETIRED_FLAGS = ("--augment-on=reference",)
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
    if chosen.startswith("--recipe"):
        # What a recipe says of the synthesis, or leaves at the paper's numbers, is what is compared.
        shared = [flag for flag in shared if flag not in _SYNTHESIS_OF_DEMO]
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
    """Flags without those that say where the data lies, in one word or in two."""
    return set(re.sub(r"(^|\0)--data([-_]dir|set)[=\0][^\0]*", "", "\0".join(flags)).split("\0"))


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
