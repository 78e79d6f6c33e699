"""`ablate --equal-time`: how many steps of each arm take as long as those of the first, from speeds measured before.

Steps are fixed before the first run, so that every seed of an arm has the same number of them and pairs stay pairs.
The speed is that of whole trainings with all they do, views and loading included, of two lengths: what starting costs
is the same in both, and cancels in their difference.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synco_hub.cli.processes import run_children

# Of each length so many are timed, or more where several train at the same time; they go there and back.
TIMED = 3
FOLDER = "measuring_speed"
# Of a run of 30 steps, or a multiple of them, exactly as large a part has synthetic negatives as of a long one.
LENGTHS = (30, 90)
# Where the short one takes so many seconds, one of twice its length says enough.
_SECONDS_ENOUGH = 10.0
# What else than learning has a beginning or an end that can be given in epochs, and makes steps dearer or cheaper.
WINDOWS = ("synthetic_warmup_epochs", "synthetic_cooldown_epochs", "synthetic_last_epoch", "freeze_backbone_epochs")

# The command of a training: of an arm, with so many steps, into a folder, with further flags.
Training = Callable[[str, int, Path, Sequence[str]], list[str]]


def keep_equal_time(
    kept: Mapping[str, Any], arms: Sequence[str], max_steps: int, jobs: int, folder: Path, training: Training
) -> dict[str, Any]:
    """Steps and speeds of all arms: those that were kept, and of new ones, which are measured beside the reference."""
    reference = kept.get("reference", arms[0])
    known = dict(kept.get("arms", {}))
    new = [arm for arm in dict.fromkeys(arms) if arm not in known]
    if new:
        load = os.getloadavg()[0]
        beside = [reference, *(arm for arm in new if arm != reference)]
        taken = measure_seconds(beside, max_steps, jobs, folder, training)
        speeds = {arm: compute_speed(arm, seconds) for arm, seconds in taken.items()}
        steps = choose_steps(speeds, reference, max_steps)
        for arm in new:
            known[arm] = {
                "steps": steps[arm],
                "seconds_a_step": speeds[arm],
                "seconds_a_step_of_reference": speeds[reference],
                "seconds_of_steps": {str(number): seconds for number, seconds in taken[arm].items()},
                "jobs": jobs,
                "load_average_before": load,
            }
    return {"reference": reference, "cpus": os.cpu_count(), **kept, "arms": known}


def choose_lengths(max_steps: int) -> tuple[int, int]:
    """Steps of the short and the long training: a tenth of a run, from 90 to 360, and no more than it has."""
    factor = min(max(max_steps // 900, 1), 4)
    long = min(factor * LENGTHS[1], max(max_steps, 3))
    return long // 3, long


def choose_steps(seconds_a_step: Mapping[str, float], reference: str, max_steps: int) -> dict[str, int]:
    """The steps that an arm does while the reference does its own."""
    return {
        arm: max(round(max_steps * seconds_a_step[reference] / seconds), 1) for arm, seconds in seconds_a_step.items()
    }


def measure_seconds(
    arms: Sequence[str], max_steps: int, jobs: int, folder: Path, training: Training
) -> dict[str, dict[int, list[float]]]:
    """Seconds of the short and the long trainings of each arm, so many of it at a time; what they write is removed.

    Windows in epochs shrink with the run, so that a short one has as large a part with synthetic negatives, or with a
    frozen backbone, as one of `max_steps` has. What this leaves out: an arm that gets another number of steps has
    another part of them within such windows, and with --start-from synthesis may wait until the queue is full.
    """
    lengths, rounds = choose_lengths(max_steps), max(math.ceil(TIMED / jobs), 2)
    try:
        windows: dict[str, Mapping[str, Any]] = {}
        seconds = []
        for arm in arms:
            # Not counted: the first one of its kind draws, downloads, compiles and caches.
            print(f"measuring the speed of {arm}: a first training of {lengths[0]} steps", flush=True)
            first = folder / str(len(windows))
            run_children([training(arm, lengths[0], first, ())], quiet=True)
            windows[arm] = json.loads((first / "pretraining_settings.json").read_text())["training"]
            seconds.append(_read_seconds(first))
        if min(seconds) >= _SECONDS_ENOUGH:
            lengths = lengths[0], min(2 * lengths[0], lengths[1])
        taken: dict[str, dict[int, list[float]]] = {arm: {steps: [] for steps in lengths} for arm in arms}
        for number in range(rounds):
            for steps in lengths:
                # There and back, so that a load that grows or falls meets all alike.
                for arm in arms if number % 2 == 0 else arms[::-1]:
                    print(f"measuring the speed of {arm}: round {number + 1} of {rounds}, {steps} steps", flush=True)
                    place = folder / f"{arms.index(arm)}-{number}-{steps}"
                    flags = shrink_windows(windows[arm], steps / max_steps)
                    places = [place / str(job) for job in range(jobs)]
                    run_children([training(arm, steps, each, flags) for each in places], quiet=True)
                    taken[arm][steps] += [_read_seconds(each) for each in places]
                    shutil.rmtree(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return taken


def compute_speed(arm: str, taken: Mapping[int, Sequence[float]]) -> float:
    """Seconds a step: what a single training was disturbed by is no part of it, nor what starting costs."""
    (short, seconds_short), (long, seconds_long) = (
        (steps, statistics.median(taken[steps])) for steps in sorted(taken)
    )
    found = (seconds_long - seconds_short) / (long - short)
    if found <= 0:
        raise ValueError(
            f"--equal-time: {long} steps of {arm} took no longer than {short} ({seconds_long:.2f} and "
            f"{seconds_short:.2f} s), so its speed is not known: try again when the machine does less else."
        )
    return found


def shrink_windows(recorded: Mapping[str, Any], part: float) -> list[str]:
    """Flags for the windows that a run has in epochs, in a run of a part of its length."""
    given = {name: recorded[name] for name in WINDOWS if recorded.get(name) is not None}
    # The last epoch, counted from 0, is within the window.
    return [
        f"--{name.replace('_', '-')}={(value + 1) * part - 1 if name == 'synthetic_last_epoch' else value * part:g}"
        for name, value in given.items()
    ]


def _read_seconds(run: Path) -> float:
    return float(json.loads((run / "pretraining_summary.json").read_text())["seconds"])


def format_equal_time(equal: Mapping[str, Any], arms: Sequence[str]) -> str:
    """What was measured and what follows, as a table."""
    lines = ["| arm | ms a step | steps | expected minutes a run |", "| --- | --- | --- | --- |"]
    for arm in dict.fromkeys(arms):
        row = equal["arms"][arm]
        minutes = row["steps"] * row["seconds_a_step"] / 60
        lines.append(f"| {arm} | {1e3 * row['seconds_a_step']:.1f} | {row['steps']} | {minutes:.1f} |")
    return "\n".join([f"Equal time, that of {equal['reference']}:", "", *lines, ""])
