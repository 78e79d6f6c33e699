"""Steps follow from speeds that are known; what is measured once is kept; tables say what time was really taken."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import invoke

from synco_hub.cli import ablate, equal_time
from synco_hub.cli.ablation_plan import PLAN_FILE
from synco_hub.cli.ablation_tables import FinishedRun, compare_pairs, write_tables
from synco_hub.cli.equal_time import (
    FOLDER,
    LENGTHS,
    TIMED,
    choose_lengths,
    choose_steps,
    compute_speed,
    keep_equal_time,
    measure_seconds,
    shrink_windows,
)
from trainers import pretrain
from trainers.schedules import synthetic_steps

TINY = (
    "--backbone=vit-nano --depth=1 --queue-size=16 --num-hard-negatives=4 --projection-hidden-dim=16 "
    "--projection-dim=8 --per-device-train-batch-size=4 --dataloader-num-workers=0 --use-cpu --disable-tqdm=true"
).split()
DATA = "fractals:num_classes=2,train_images_per_class=8,test_images_per_class=4"


class Clock:
    """Trainings that take what they are said to take, and start with what is no part of the speed."""

    def __init__(self, seconds_a_step: dict[str, float], recorded: dict[str, float] | None = None) -> None:
        self.seconds_a_step, self.recorded = seconds_a_step, recorded or {}
        self.started: list[list[list[str]]] = []

    def __call__(self, commands: list[list[str]], quiet: bool = False) -> None:
        self.started.append(commands)
        for command in commands:
            flags = dict(word.removeprefix("--").split("=", 1) for word in command if "=" in word)
            arm, steps, place = flags.get("method") or flags["recipe"], int(flags["max-steps"]), flags["output-dir"]
            starting = 2.0 + len(arm) / 4
            if len(self.started) in (4, 9):  # once a short one was disturbed, once a long one
                starting += 100.0
            Path(place).mkdir(parents=True)
            summary = {"seconds": starting + steps * self.seconds_a_step[arm]}
            (Path(place) / "pretraining_summary.json").write_text(json.dumps(summary))
            (Path(place) / "pretraining_settings.json").write_text(json.dumps({"training": self.recorded}))

    @property
    def order(self) -> list[tuple[str, str, int]]:
        """Arm, steps and number of the trainings that went together."""
        return [(call[0][0].split("=")[1], call[0][1].split("=")[1], len(call)) for call in self.started]


def training(arm: str, steps: int, folder: Path, further: list[str]) -> list[str]:
    return [f"--method={arm}", f"--max-steps={steps}", f"--output-dir={folder}", *further]


def test_half_the_speed_is_half_the_steps(tmp_path, monkeypatch):
    clock = Clock({"moby": 0.1, "synco-v2": 0.2, "byol": 0.08})
    monkeypatch.setattr(equal_time, "run_children", clock)
    kept = keep_equal_time({}, ["moby", "synco-v2", "byol"], 600, 1, tmp_path / FOLDER, training)
    assert {arm: row["steps"] for arm, row in kept["arms"].items()} == {"moby": 600, "synco-v2": 300, "byol": 750}
    assert kept["arms"]["byol"]["seconds_a_step"] == pytest.approx(0.08)
    assert [len(seconds) for seconds in kept["arms"]["byol"]["seconds_of_steps"].values()] == [TIMED, TIMED]
    assert list(tmp_path.iterdir()) == []
    # A first one of each, then in turns, there and back.
    short, long = "30", "90"
    one = [("moby", short), ("synco-v2", short), ("byol", short), ("moby", long), ("synco-v2", long), ("byol", long)]
    back = [*one[2::-1], *one[:2:-1]]
    assert [call[:2] for call in clock.order] == [*one[:3], *one, *back, *one]


def test_as_many_are_measured_at_a_time_as_train(tmp_path, monkeypatch):
    clock = Clock({"moby": 0.1, "byol": 0.1})
    monkeypatch.setattr(equal_time, "run_children", clock)
    measure_seconds(["moby", "byol"], 600, 3, tmp_path / FOLDER, training)
    assert {number for *_, number in clock.order[2:]} == {3}
    assert {call[0] for call in clock.order[2:]} == {"moby", "byol"}
    # There and back: six of each length.
    assert [call[0] for call in clock.order[2:]] == ["moby", "byol", "moby", "byol", "byol", "moby", "byol", "moby"]


def test_slow_steps_are_timed_in_shorter_trainings(tmp_path, monkeypatch):
    clock = Clock({"moby": 0.4, "byol": 0.8})
    monkeypatch.setattr(equal_time, "run_children", clock)
    taken = measure_seconds(["moby", "byol"], 600, 1, tmp_path / FOLDER, training)
    assert {steps for seconds in taken.values() for steps in seconds} == {30, 60}
    assert {arm: compute_speed(arm, seconds) for arm, seconds in taken.items()} == pytest.approx(clock.seconds_a_step)


def test_a_new_arm_is_measured_beside_the_reference_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(equal_time, "run_children", Clock({"moby": 0.1, "synco-v2": 0.2}))
    kept = keep_equal_time({}, ["moby", "synco-v2"], 600, 1, tmp_path / FOLDER, training)
    # Today everything takes twice as long.
    clock = Clock({"moby": 0.2, "byol": 0.1})
    monkeypatch.setattr(equal_time, "run_children", clock)
    more = keep_equal_time(kept, ["synco-v2", "byol"], 600, 1, tmp_path / FOLDER, training)
    assert {arm: row["steps"] for arm, row in more["arms"].items()} == {"moby": 600, "synco-v2": 300, "byol": 1200}
    assert {arm: more["arms"][arm] for arm in kept["arms"]} == kept["arms"]
    assert {call[0] for call in clock.order} == {"moby", "byol"}
    clock.started.clear()
    assert keep_equal_time(more, ["byol", "moby"], 600, 2, tmp_path / FOLDER, training) == more
    assert clock.started == []


@pytest.mark.parametrize(
    ("max_steps", "lengths"), [(1, (1, 3)), (4, (1, 4)), (60, (20, 60)), (1200, (30, 90)), (10**6, (120, 360))]
)
def test_lengths_are_a_tenth_of_a_run_and_no_more_than_it_has(max_steps, lengths):
    assert choose_lengths(max_steps) == lengths


def test_no_arm_gets_less_than_a_step():
    assert choose_steps({"moby": 0.1, "slow": 90.0}, "moby", 10) == {"moby": 10, "slow": 1}


def test_a_speed_that_is_lost_in_noise_is_said_and_nothing_is_left(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"90 steps of byol took no longer than 30 \(5.00 and 5.50 s\).*try again"):
        compute_speed("byol", {30: [5.5, 5.4, 9.0], 90: [5.0, 4.0, 6.0]})
    monkeypatch.setattr(equal_time, "run_children", Clock({"moby": 0.1, "byol": 0.0}))
    with pytest.raises(ValueError, match="90 steps of byol took no longer"):
        keep_equal_time({}, ["moby", "byol"], 600, 1, tmp_path / FOLDER, training)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "windows",
    [
        {},
        {"synthetic_warmup_epochs": 2.0},
        {"synthetic_warmup_epochs": 1.0, "synthetic_cooldown_epochs": 0.0},
        {"synthetic_warmup_epochs": 3.0, "synthetic_last_epoch": 7.0},
    ],
)
def test_a_short_run_has_as_large_a_part_with_synthetic_negatives_as_a_long_one(windows):
    """By the schedule that trains: 15.6 steps an epoch, 960 steps."""

    def share(steps: int, words: list[str]) -> float:
        given = {word[2:].split("=")[0].removeprefix("synthetic-").replace("-", "_"): word for word in words}
        numbers = {name: float(word.split("=")[1]) for name, word in given.items()}
        return len(synthetic_steps(steps, 15.6, **numbers)) / steps

    recorded = {"synthetic_warmup_epochs": None, "synthetic_last_epoch": None, **windows}
    whole = share(960, shrink_windows(recorded, 1.0))
    for steps in LENGTHS:
        assert share(steps, shrink_windows(recorded, steps / 960)) == pytest.approx(whole, abs=1.5 / steps)


def test_windows_that_a_run_has_reach_its_short_ones(tmp_path, monkeypatch):
    clock = Clock({"moby": 0.1, "synco-v2": 0.2}, {"synthetic_warmup_epochs": 6.0})
    monkeypatch.setattr(equal_time, "run_children", clock)
    measure_seconds(["moby", "synco-v2"], 600, 1, tmp_path / FOLDER, training)
    assert {tuple(call[0][3:]) for call in clock.started[2:]} == {
        ("--synthetic-warmup-epochs=0.3",),
        ("--synthetic-warmup-epochs=0.9",),
    }


@pytest.fixture
def ablation(tmp_path, monkeypatch):
    """A command at equal time whose trainings run in this process, and the folder that it writes."""
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))

    def in_this_process(commands: list[list[str]], quiet: bool = False) -> None:
        for command in commands:
            pretrain.main(command[3:])

    monkeypatch.setattr(ablate, "run_children", in_this_process)
    output = tmp_path / "ablation"
    words = ["ablate", "--equal-time", "--methods", "moby,synco-v2", "--dataset", DATA, "--max-steps", "8"]
    return [*words, "--output-dir", str(output), *TINY], output


def test_an_ablation_at_equal_time_trains_each_arm_its_own_steps(ablation, monkeypatch):
    words, output = ablation
    clock = Clock({"moby": 0.1, "synco-v2": 0.2})
    monkeypatch.setattr(equal_time, "run_children", clock)
    first = invoke([*words, "--seeds", "1"])
    assert first.exit_code == 0, first.exception
    assert first.output.index("| synco-v2 | 200.0 | 4 | 0.0 |") < first.output.index("run: moby, seed 0")
    for arm, steps in (("moby", 8), ("synco-v2", 4)):
        assert json.loads((output / f"{arm}-seed0/pretraining_summary.json").read_text())["steps"] == steps
        assert (output / f"{arm}-seed0/checkpoint-{steps // 4 * 3}").is_dir()
    plan = json.loads((output / PLAN_FILE).read_text())
    assert plan["equal_time"]["reference"] == "moby"
    assert plan["equal_time"]["arms"]["synco-v2"].keys() >= {"jobs", "load_average_before"}
    # Another machine would measure otherwise; steps stay.
    monkeypatch.setattr(equal_time, "run_children", Clock({"moby": 0.1, "synco-v2": 0.1}))
    assert invoke([*words, "--seeds", "2"]).exit_code == 0
    assert json.loads((output / PLAN_FILE).read_text()) == plan
    assert json.loads((output / "synco-v2-seed1/pretraining_summary.json").read_text())["steps"] == 4
    data = json.loads((output / "ablation.json").read_text())
    assert [row.get("steps") for row in data["rows"]] == [None, 8, 4]
    assert [run.get("steps") for run in data["runs"]] == [None, None, 8, 8, 4, 4]
    assert data["settings"]["training_time"] == "that of 8 steps of moby"
    assert "max_steps" not in data["settings"]
    assert re.search(r"synco-v2 − moby at (un)?equal time \(\d", (output / "ablation.md").read_text())
    # The runs of the folder are of equal time.
    without = invoke([word for word in [*words, "--seeds", "2"] if word != "--equal-time"])
    assert "holds an ablation at equal time: give --equal-time, or" in str(without.exception)


@pytest.mark.slow
def test_what_costs_more_a_step_gets_fewer_and_takes_the_time_that_was_expected(ablation, tmp_path, monkeypatch):
    """Measured in earnest, in this process: eight batches a step against one."""
    words, output = ablation
    monkeypatch.setattr(equal_time, "run_children", ablate.run_children)
    cheap, dear = tmp_path / "cheap.yaml", tmp_path / "dear.yaml"
    cheap.write_text("method: moby\n")
    dear.write_text("method: moby\ngradient_accumulation_steps: 8\n")
    more = ["--methods", f"{cheap},{dear}", "--max-steps", "48", "--seeds", "2"]
    ended = invoke([*words, *more])
    assert ended.exit_code == 0, ended.exception
    data = json.loads((output / "ablation.json").read_text())
    rows = {row["method"]: row for row in data["rows"]}
    arms = json.loads((output / PLAN_FILE).read_text())["equal_time"]["arms"]
    assert rows[str(cheap)]["steps"] == 48
    assert 1 <= rows[str(dear)]["steps"] <= 24
    assert rows[str(dear)]["steps"] == round(
        48 * arms[str(cheap)]["seconds_a_step"] / arms[str(dear)]["seconds_a_step"]
    )
    compared = {each["method"]: each for each in data["differences"]}
    assert compared[str(dear)]["pairs"] == 2
    assert compared[str(dear)]["time_ratio"] == pytest.approx(rows[str(dear)]["seconds"] / rows[str(cheap)]["seconds"])
    assert not (output / FOLDER).exists()


def test_equal_steps_do_not_become_equal_time(ablation):
    words, output = ablation
    assert invoke([*[word for word in words if word != "--equal-time"], "--seeds", "1"]).exit_code == 0
    refused = invoke([*words, "--seeds", "1"])
    assert "holds an ablation at equal steps: leave --equal-time out, or" in str(refused.exception)
    assert not (output / FOLDER).exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, subprocess.CalledProcessError(1, ["training"])])
def test_a_stop_while_measuring_leaves_nothing_that_blocks_the_next_call(tmp_path, monkeypatch, stop):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    output = tmp_path / "ablation"
    clock = Clock({"moby": 0.1, "synco-v2": 0.2})

    def stopped(commands: list[list[str]], quiet: bool = False) -> None:
        if len(clock.started) == 3:
            raise stop
        clock(commands)

    monkeypatch.setattr(equal_time, "run_children", stopped)
    words = ["ablate", "--equal-time", "--methods", "moby,synco-v2", "--dataset", DATA, "--output-dir", str(output)]
    try:
        assert invoke(words).exit_code == (1 if isinstance(stop, Exception) else 0)
    except KeyboardInterrupt:
        assert stop is KeyboardInterrupt
    assert list(output.iterdir()) == []
    # One that was killed could not clear up; the next call does, and may have other flags.
    (output / FOLDER / "0").mkdir(parents=True)
    clock.started.clear()
    clock.started += [[]] * 4
    monkeypatch.setattr(ablate, "run_children", lambda commands: sys.exit(143))
    assert invoke([*words, "--max-steps", "6"]).exit_code == 143
    assert json.loads((output / PLAN_FILE).read_text())["equal_time"]["arms"]["synco-v2"]["steps"] == 3
    assert not (output / FOLDER).exists()


def test_equal_time_of_one_arm_is_refused(tmp_path):
    refused = invoke(["ablate", "--equal-time", "--methods", "moby,moby", "--output-dir", str(tmp_path / "x")])
    assert isinstance(refused.exception, ValueError)
    assert "--methods moby,moby" in str(refused.exception)
    assert not (tmp_path / "x").exists()


def test_tables_say_steps_and_the_seconds_that_were_taken(tmp_path):
    generator = np.random.default_rng(3)
    values = generator.uniform(40, 60, (2, 3))
    runs = [FinishedRun("untrained", seed, {"top1_k10": 30.0}, 0.0) for seed in range(3)]
    for arm, steps, own, seconds in (("moby", 600, values[0], (60, 61, 62)), ("byol", 300, values[1], (63, 66, 72))):
        runs += [FinishedRun(arm, seed, {"top1_k10": own[seed]}, seconds[seed], None, steps) for seed in range(3)]
    paths = write_tables(tmp_path, runs, "top1_k10", {"training_time": "that of 600 steps of moby"}, "moby")
    lines = paths[0].read_text().splitlines()
    assert lines[2].endswith("| minutes a run | steps | seconds a run |")
    assert [line.split(" | ", 6)[-1] for line in lines[4:7]] == ["– | – |", "600 | 61.0 |", "300 | 67.0 |"]
    assert len({line.count("|") for line in lines[2:7]}) == 1
    said = [each.describe() for each in compare_pairs(runs, "top1_k10", "moby")]
    assert said[0].startswith("untrained − moby: ")
    assert said[1].startswith("byol − moby at equal time (1.10 times the seconds): ")
    slow = [replace(run, seconds=1.02 * run.seconds) if run.arm == "byol" else run for run in runs]
    assert (
        "byol − moby at unequal time (1.12 times the seconds): "
        in compare_pairs(slow, "top1_k10", "moby")[1].describe()
    )
    data = json.loads(paths[1].read_text())
    assert [row.get("seconds") for row in data["rows"]] == [None, 61.0, 67.0]
    assert [each.get("time_ratio") for each in data["differences"]] == [None, pytest.approx(201 / 183)]
    assert [FinishedRun(**run) for run in data["runs"]] == runs
    table = list(csv.DictReader(paths[2].read_text().splitlines()))
    assert [(row["steps"], row["seconds"]) for row in table] == [("", ""), ("600", "61.0"), ("300", "67.0")]
