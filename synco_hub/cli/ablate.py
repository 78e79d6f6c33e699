"""`synco-hub ablate`: several methods on the same budget and the same seeds, as a table that can be argued with.

Runs are processes of their own, kept where they are finished and measured by k-NN; what was found is written as data,
as tables and as a picture: mean ± standard deviation over the seeds.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, ViTImageProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from synco_hub.cli.ablation_plan import PLAN_FILE, keep_to_the_plan, read_plan, read_recipes
from synco_hub.cli.ablation_tables import PIXELS, FinishedRun, require_metric, write_tables
from synco_hub.cli.demo import SETTINGS
from synco_hub.cli.equal_time import FOLDER, format_equal_time, keep_equal_time
from synco_hub.cli.options import AblateOptions, Probe, SettingsOfRuns
from synco_hub.cli.processes import run_children
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
# Of the demonstration's, what changes no weights.
_NO_SETTINGS = ("dataloader-num-workers", "logging-steps")
RESULT_FILE = "results_knn.json"
UNTRAINED = "untrained"
UNTRAINED_RESULT_FILE = "results_knn_untrained.json"
PIXELS_RESULT_FILE = "results_knn_pixels.json"
PROBE_METRIC = "top1_last_epoch"
PROBES: dict[Probe, str] = {
    "cached": "cached features of centre crops (not the paper's protocol)",
    "full": "the paper's protocol (7.5)",
}


def ablate(options: AblateOptions, choice: DatasetChoice, further: Sequence[str]) -> None:
    """`synco-hub ablate`; what is further given goes to every run."""
    arms = [arm.strip() for arm in options.methods.split(",") if arm.strip()]
    if not arms or options.seeds < 1 or options.jobs < 1:
        raise ValueError(
            f"--methods {options.methods!r} with --seeds {options.seeds} and --jobs {options.jobs} is no run: name a "
            "method, at least one seed and one job."
        )
    if options.equal_time and len(set(arms)) < 2:
        raise ValueError(
            f"--equal-time gives every other arm the time of the first, and --methods {options.methods} has no other: "
            "name at least two."
        )
    neighbours = choose_neighbours(options.metric)
    steps, begun = settle_steps(options, arms, choice, further)
    flags = {arm: build_shared_flags(choice, steps[arm], further, options.settings) for arm in arms}
    pairs = [(seed, arm) for seed in range(options.seeds) for arm in arms]
    runs = []
    for number in range(0, len(pairs), options.jobs):
        some = pairs[number : number + options.jobs]
        train_runs(options, some, flags, begun)
        probes = probe_runs(options, some, choice, further)
        for (seed, arm), probe in zip(some, probes, strict=True):
            run = read_finished_run(arm, seed, _place(options, arm, seed), choice, probe, neighbours)
            runs.append(replace(run, steps=steps[arm]) if options.equal_time else run)
            require_metric(runs[-1], options.metric)
        print(f"{min(number + options.jobs, len(pairs))} of {len(pairs)} runs are finished and measured", flush=True)
    like = [_place(options, arms[0], seed) for seed in range(options.seeds)]
    floor = [measure_untrained_run(seed, directory, choice, neighbours) for seed, directory in enumerate(like)]
    if options.pixels:
        floor.insert(0, measure_pixels(options.output_dir, like[0], choice, neighbours))
    runs = [*floor, *sorted(runs, key=lambda run: arms.index(run.arm))]
    budget: dict[str, Any] = {"max_steps": options.max_steps}
    if options.equal_time:
        budget = {"training_time": f"that of {steps[arms[0]]} steps of {arms[0]}"}
    settings: dict[str, Any] = {**budget, "dataset": choice.dataset, "seeds": options.seeds}
    if options.probe != "none":
        settings["probe"] = PROBES[options.probe]
    paths = write_tables(options.output_dir, runs, options.metric, settings, arms[0])
    print(paths[0].read_text(encoding="utf-8"))
    print(f"wrote {', '.join(str(path) for path in paths)}")


def settle_steps(
    options: AblateOptions, arms: Sequence[str], choice: DatasetChoice, further: Sequence[str]
) -> tuple[dict[str, int], bool]:
    """The steps of every arm, which the plan keeps, and whether the plan is new; speeds are measured before it is."""

    def build_flags(steps: int) -> list[str]:
        return build_shared_flags(choice, steps, further, options.settings)

    def short_training(arm: str, steps: int, directory: Path, own: Sequence[str]) -> list[str]:
        return training_command(arm, 0, directory, [*build_flags(steps), "--save-strategy=no", *own])

    folder = options.output_dir / FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed while it measured
    shared = build_flags(options.max_steps)
    streamed = any(flag.startswith("--streaming") for flag in further)
    contents = None if streamed else hash_contents(load_dataset(choice, "train"))
    recipes = read_recipes([arm for arm in arms if _is_recipe(arm)], _leave_synthesis_to_recipe(shared))
    plan: dict[str, Any] = {"flags": shared, "contents": contents} | ({"recipes": recipes} if recipes else {})
    steps = dict.fromkeys(arms, options.max_steps)
    if options.equal_time:
        plan["equal_time"] = {}
        kept = read_plan(options.output_dir, plan).get("equal_time", {})
        jobs = min(options.jobs, len(set(arms)) * options.seeds)
        plan["equal_time"] = keep_equal_time(kept, arms, options.max_steps, jobs, folder, short_training)
        steps = {arm: plan["equal_time"]["arms"][arm]["steps"] for arm in arms}
        print(format_equal_time(plan["equal_time"], arms), flush=True)
    return steps, keep_to_the_plan(options.output_dir, plan)


def _place(options: AblateOptions, arm: str, seed: int) -> Path:
    return options.output_dir / run_name(arm, seed)


def train_runs(
    options: AblateOptions, pairs: Sequence[tuple[int, str]], flags: Mapping[str, Sequence[str]], begun: bool
) -> None:
    """Train what is not finished of some runs, at the same time; `flags` are those of each arm."""
    todo = [pair for pair in pairs if not (_place(options, pair[1], pair[0]) / RESULT_FILE).is_file()]
    for seed, arm in todo:
        print(f"run: {arm}, seed {seed}", flush=True)
    try:
        run_children([training_command(arm, seed, _place(options, arm, seed), flags[arm]) for seed, arm in todo])
    except CalledProcessError:
        if begun and not any(path.is_dir() for path in options.output_dir.iterdir()):
            # No run began with these flags, so the next call need not keep to them.
            (options.output_dir / PLAN_FILE).unlink()
        raise


def probe_runs(
    options: AblateOptions, pairs: Sequence[tuple[int, str]], choice: DatasetChoice, further: Sequence[str]
) -> list[Path | None]:
    """Where the linear probes of some runs are, made at the same time; None without probes."""
    if options.probe == "none":
        return [None] * len(pairs)
    places = [_place(options, arm, seed) for seed, arm in pairs]
    results = [place / probe_result(options.probe) for place in places]
    todo = [each for each in zip(pairs, places, results, strict=True) if not each[2].is_file()]
    for (seed, arm), _, _ in todo:
        print(f"linear probe ({options.probe}) of {arm}, seed {seed}", flush=True)
    run_children([build_probing_command(options.probe, seed, place, choice, further) for (seed, _), place, _ in todo])
    return list(results)


# The processes that train and probe


def build_shared_flags(
    choice: DatasetChoice, max_steps: int, further: Sequence[str], defaults: SettingsOfRuns = "demo"
) -> list[str]:
    """The flags of every run: the demonstration's, the budget, the data, and the user's own, which win."""
    demo = SETTINGS if defaults == "demo" else {name: SETTINGS[name] for name in _NO_SETTINGS}
    settings = {**demo, "dataset": choice.dataset, "max-steps": str(max_steps)}
    # A run that is stopped continues from here.
    settings |= {"save-strategy": "steps", "save-steps": str(max(max_steps // 4, 1))}
    return [*(f"--{name}={value}" for name, value in settings.items()), *_spell_where(choice), *further]


def _spell_where(choice: DatasetChoice) -> list[str]:
    """What of a choice is given beside its data set, as flags."""
    given = {
        field.name: getattr(choice, field.name)
        for field in fields(choice)
        if field.name != "dataset" and getattr(choice, field.name) != field.default
    }
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]


def training_command(arm: str, seed: int, directory: Path, shared: Sequence[str]) -> list[str]:
    """The process that trains one arm with one seed, or continues it."""
    chosen = f"--recipe={arm}" if _is_recipe(arm) else f"--method={arm}"
    resume = ["--resume"] if directory.exists() else []
    if _is_recipe(arm):
        shared = _leave_synthesis_to_recipe(shared)
    flags = [chosen, *shared, f"--seed={seed}", f"--output-dir={directory}", *resume]
    return [sys.executable, "-m", "trainers.pretrain", *flags]


def _is_recipe(arm: str) -> bool:
    return "/" in arm or arm.endswith((".yaml", ".yml"))


def _leave_synthesis_to_recipe(shared: Sequence[str]) -> list[str]:
    """What a recipe says of the synthesis, or leaves at the paper's numbers, is what is compared."""
    return [flag for flag in shared if flag not in _SYNTHESIS_OF_DEMO]


def probe_result(probe: Probe) -> Path:
    """Where a probe's result is, within a run's directory."""
    return Path(f"probe-{probe}") / ("linear_probe_cached.json" if probe == "cached" else "linear_probe.json")


def build_probing_command(
    probe: Probe, seed: int, run: Path, choice: DatasetChoice, further: Sequence[str]
) -> list[str]:
    """The process that probes one finished run, or continues to; of the user's flags it takes the device."""
    output = run / probe_result(probe).parent
    flags = [f"--model={run}", f"--dataset={choice.dataset}", f"--seed={seed}", f"--output-dir={output}"]
    flags += [*_spell_where(choice), "--disable-tqdm=true"]
    flags += ["--cached-features", "--dataloader-num-workers=0"] if probe == "cached" else []
    flags += [flag for flag in further if flag.split("=")[0].replace("_", "-") == "--use-cpu"]
    return [sys.executable, "-m", "trainers.linear_probe", *flags, *(["--resume"] if output.exists() else [])]


def run_name(arm: str, seed: int) -> str:
    """Folder of a run."""
    return f"{arm.replace('/', '-')}-seed{seed}"


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


class PixelConfig(PretrainedConfig):
    """Names the network without weights."""

    model_type = PIXELS


class PixelNetwork(nn.Module):
    """Nothing learned: the feature of an image is its pixels."""

    config = PixelConfig()

    def __init__(self) -> None:
        super().__init__()
        # By its weights the device of a network is known.
        self.weight = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """Shape: (batch, channels, height, width) to a `pooler_output` of (batch, channels · height · width)."""
        return BaseModelOutputWithPooling(pooler_output=pixel_values.flatten(1))


def measure_pixels(
    directory: Path, like: Path, choice: DatasetChoice, neighbours: list[int] | None = None
) -> FinishedRun:
    """Measure pixels between 0 and 1, of whole images at the size that the network of a finished run takes."""

    def build() -> EvaluatedModel:
        side = load_model(str(like))[0].config.image_size or 224
        size = {"height": side, "width": side}
        processor = ViTImageProcessor(size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3)
        return EvaluatedModel(PixelNetwork(), processor, PIXELS)

    result = _read_or_measure(directory / PIXELS_RESULT_FILE, neighbours, choice, build)
    return FinishedRun(PIXELS, 0, dict(result.metrics), 0.0)


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
