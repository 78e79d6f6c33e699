import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from synco_hub.cli.ablate import Probe, keep_to_the_plan, probing_command, run_name, shared_flags, training_command
from synco_hub.cli.ablation_runs import RESULT_FILE
from synco_hub.cli.main import app
from trainers import linear_probe, pretrain

TINY = (
    "--backbone=vit-nano --depth=1 --queue-size=16 --num-hard-negatives=4 --projection-hidden-dim=16 "
    "--projection-dim=8 --per-device-train-batch-size=4 --dataloader-num-workers=0 --use-cpu --disable-tqdm=true"
).split()
DATA = "fractals:num_classes=2,train_images_per_class=8,test_images_per_class=4"


def test_arms_differ_in_nothing_but_the_method_and_the_seed(tmp_path):
    shared = shared_flags("fractals", 40, ["--learning-rate=1e-3"])
    one = training_command("moby", 0, tmp_path / "a", shared)
    other = training_command("imagenet-100/only-mixup", 2, tmp_path / "b", shared)
    assert [flag for flag in one if flag not in other] == [
        "--method=moby",
        "--seed=0",
        f"--output-dir={tmp_path / 'a'}",
    ]
    assert "--recipe=imagenet-100/only-mixup" in other
    assert "--max-steps=40" in one
    assert one.index("--learning-rate=1e-3") > one.index("--learning-rate=3e-3")
    assert run_name("imagenet-100/only-mixup", 2) == "imagenet-100-only-mixup-seed2"
    (tmp_path / "a").mkdir()
    assert "--resume" in training_command("moby", 0, tmp_path / "a", shared)
    assert "--resume" not in one


def test_runs_of_another_budget_never_enter_the_table(tmp_path):
    keep_to_the_plan(tmp_path, {"flags": ["--max-steps=4"]})
    keep_to_the_plan(tmp_path, {"flags": ["--max-steps=4"]})
    with pytest.raises(ValueError, match=r"then --max-steps=4; now --max-steps=5"):
        keep_to_the_plan(tmp_path, {"flags": ["--max-steps=5"]})


def test_an_ablation_runs_keeps_what_is_finished_and_continues(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    started: list[list[str]] = []

    def in_this_process(command: list[str], check: bool) -> None:
        started.append(command)
        {"trainers.pretrain": pretrain, "trainers.linear_probe": linear_probe}[command[2]].main(command[3:])

    monkeypatch.setattr(subprocess, "run", in_this_process)
    output = tmp_path / "ablation"
    arguments = ["ablate", "--methods", "moby,synco-v2", "--dataset", DATA, "--max-steps", "4"]
    arguments += ["--output-dir", str(output), *TINY]
    first = CliRunner().invoke(app, [*arguments, "--seeds", "1"], catch_exceptions=False)
    assert first.exit_code == 0
    assert [command[:3] for command in started] == [[sys.executable, "-m", "trainers.pretrain"]] * 2
    before = (output / "moby-seed0" / RESULT_FILE).read_bytes()
    CliRunner().invoke(app, [*arguments, "--seeds", "2"], catch_exceptions=False)
    assert [flag for command in started[2:] for flag in command if flag.startswith("--seed=")] == ["--seed=1"] * 2
    assert (output / "moby-seed0" / RESULT_FILE).read_bytes() == before
    data = json.loads((output / "ablation.json").read_text())
    assert [(row["method"], row["runs"]) for row in data["rows"]] == [("untrained", 2), ("moby", 2), ("synco-v2", 2)]
    assert all(0 <= row["mean"] <= 100 for row in data["rows"])
    assert "± " in (output / "ablation.md").read_text()
    assert "linear probe" not in (output / "ablation.md").read_text()
    CliRunner().invoke(app, [*arguments, "--seeds", "2", "--probe", "cached"], catch_exceptions=False)
    assert [command[2] for command in started[4:]] == ["trainers.linear_probe"] * 4
    data = json.loads((output / "ablation.json").read_text())
    own = [
        json.loads((output / f"moby-seed{seed}/probe-cached/linear_probe_cached.json").read_text())["metrics"]
        for seed in range(2)
    ]
    expected = sum(metrics["top1_last_epoch"] for metrics in own) / 2
    assert [row["probe_mean"] is None for row in data["rows"]] == [True, False, False]
    assert data["rows"][1]["probe_mean"] == pytest.approx(expected)
    assert "linear probe top-1" in (output / "ablation.md").read_text()
    assert "not the paper's protocol" in (output / "ablation.md").read_text()
    CliRunner().invoke(app, [*arguments, "--seeds", "2", "--probe", "cached"], catch_exceptions=False)
    assert len(started) == 8


def test_the_full_probe_is_the_papers_and_continues(tmp_path):
    command = probing_command(Probe.full, 3, tmp_path, "fractals", ["--use-cpu", "--learning-rate=1e-3"])
    assert "--cached-features" not in command
    assert "--use-cpu" in command
    assert "--learning-rate=1e-3" not in command
    assert "--resume" not in command
    (tmp_path / "probe-full").mkdir()
    assert probing_command(Probe.full, 3, tmp_path, "fractals", [])[-1] == "--resume"


@pytest.mark.parametrize("flags", [["--methods", " , "], ["--seeds", "0"]])
def test_an_ablation_of_nothing_is_refused(tmp_path, flags):
    outcome = CliRunner().invoke(app, ["ablate", *flags, "--output-dir", str(tmp_path / "x")])
    assert isinstance(outcome.exception, ValueError)
    assert not (tmp_path / "x").exists()
