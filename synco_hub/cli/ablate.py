"""`synco-hub ablate`: several methods on the same budget and the same seeds, as a table that can be argued with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from synco_hub.atomic_write import atomic_write
from synco_hub.cli.demo import SETTINGS

PLAN_FILE = "ablation_plan.json"


class Probe(StrEnum):
    """Whether trained runs are probed too: not, on features computed once, or by the paper's protocol."""

    none = "none"
    cached = "cached"
    full = "full"


def ablate(
    context: typer.Context,
    methods: str = typer.Option(
        "byol,moby,synco-v2", help="Methods or recipes (such as imagenet-100/only-mixup), separated by commas."
    ),
    seeds: int = typer.Option(3, help="Runs of each, with seeds 0, 1, …"),
    max_steps: int = typer.Option(1200, help="Optimizer steps of every run."),
    dataset: str = typer.Option("fractals", help="fractals, a folder of images with labels, or a Hub id."),
    output_dir: Path = typer.Option(Path("ablation"), help="Folder for the runs and the tables."),
    metric: str = typer.Option("top1_k10", help="Which k-NN accuracy the table shows."),
    probe: Probe = typer.Option(
        Probe.none,
        help="Linear probe of every run as a further column: full is the paper's protocol, cached a quick look that "
        "is not.",
    ),
) -> None:
    """Compare methods on matched budgets; finished runs are kept, so the same command continues after a stop.

    Further flags go to every run as they are (`synco-hub pretrain --help`). Defaults are those of the demonstration.

    Example: synco-hub ablate --methods byol,moby,synco-v2 --seeds 3 --max-steps 600 --output-dir ablation
    """
    arms = [arm.strip() for arm in methods.split(",") if arm.strip()]
    if not arms or seeds < 1:
        raise ValueError(f"--methods {methods!r} with --seeds {seeds} is no run: name a method and at least one seed.")
    shared = shared_flags(dataset, max_steps, context.args)
    keep_to_the_plan(output_dir, {"flags": shared})
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.ablation_runs import RESULT_FILE, UNTRAINED, finished_run, untrained_run
    from synco_hub.cli.ablation_table import finding, rows_of, write_tables

    runs = []
    for number, (seed, arm) in enumerate([(seed, arm) for seed in range(seeds) for arm in arms], start=1):
        directory = output_dir / run_name(arm, seed)
        if not (directory / RESULT_FILE).is_file():
            print(f"run {number} of {seeds * len(arms)}: {arm}, seed {seed}")
            subprocess.run(training_command(arm, seed, directory, shared), check=True)
        file = directory / probe_result(probe)
        if probe is not Probe.none and not file.is_file():
            print(f"linear probe ({probe.value}) of {arm}, seed {seed}")
            subprocess.run(probing_command(probe, seed, directory, dataset, context.args), check=True)
        runs.append(finished_run(arm, seed, directory, dataset, None if probe is Probe.none else file))
    runs = [untrained_run(seed, output_dir / run_name(arms[0], seed), dataset) for seed in range(seeds)] + runs
    runs.sort(key=lambda run: [UNTRAINED, *arms].index(run.arm))
    settings = {"max_steps": max_steps, "dataset": dataset, "seeds": seeds}
    if probe is not Probe.none:
        settings["probe"] = PROBES[probe]
    paths = write_tables(output_dir, runs, metric, settings)
    print(paths[0].read_text(encoding="utf-8"))
    print(f"wrote {', '.join(str(path) for path in paths)}\n{finding(rows_of(runs, metric))}")


def shared_flags(dataset: str, max_steps: int, further: Sequence[str]) -> list[str]:
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


PROBES = {
    Probe.cached: "cached features of centre crops (not the paper's protocol)",
    Probe.full: "the paper's protocol (7.5)",
}


def probe_result(probe: Probe) -> Path:
    """Where a probe's result is, within a run's directory."""
    return Path(f"probe-{probe.value}") / (
        "linear_probe_cached.json" if probe is Probe.cached else "linear_probe.json"
    )


def probing_command(probe: Probe, seed: int, run: Path, dataset: str, further: Sequence[str]) -> list[str]:
    """The process that probes one finished run, or continues to.

    Args:
        probe: `cached` or `full`.
        seed: Seed of the run and of its probe.
        run: Output directory of the run.
        dataset: What is classified.
        further: The user's flags for pretraining, of which the probe takes the device.
    """
    output = run / probe_result(probe).parent
    flags = [f"--model={run}", f"--dataset={dataset}", f"--seed={seed}", f"--output-dir={output}"]
    flags += ["--disable-tqdm=true"]
    flags += ["--cached-features"] if probe is Probe.cached else []
    flags += ["--dataloader-num-workers=0"] if probe is Probe.cached else []
    flags += [flag for flag in further if flag.split("=")[0].replace("_", "-") == "--use-cpu"]
    return [sys.executable, "-m", "trainers.linear_probe", *flags, *(["--resume"] if output.exists() else [])]


def run_name(arm: str, seed: int) -> str:
    """Folder of a run."""
    return f"{arm.replace('/', '-')}-seed{seed}"


def keep_to_the_plan(directory: Path, plan: Mapping[str, Any]) -> None:
    """Record what all runs share, so that runs of another budget never enter the same table.

    Raises:
        ValueError: If the folder holds an ablation with other flags, naming those that differ.
    """
    file = directory / PLAN_FILE
    if file.is_file():
        earlier, now = set(json.loads(file.read_text())["flags"]), set(plan["flags"])
        if earlier != now:
            raise ValueError(
                f"{directory} holds an ablation with other settings (then {', '.join(sorted(earlier - now)) or '-'}; "
                f"now {', '.join(sorted(now - earlier)) or '-'}): give the same ones, or another --output-dir."
            )
        return
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(plan, indent=2) + "\n")
