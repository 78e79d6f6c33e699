"""What version 0.1 wrote goes on: its data lie in tests/data_trees/version_0_1, made by the commit named there."""

import json
import math
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import invoke
from safetensors.torch import load_file
from transformers import AutoModel

from trainers import PretrainingSettings, SynCoForPreTraining
from trainers.pretrain import main
from trainers.runs.checkpoints import SETTINGS_FILE

DATA = Path(__file__).parents[1] / "data_trees" / "version_0_1"
CONTINUATION = json.loads((DATA / "continuation.json").read_text())
METHODS = list(CONTINUATION["runs"])


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path_factory.getbasetemp() / "earlier-home"))


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(DATA / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name


def rewrite(file: Path, group: str, **values: Any) -> None:
    settings = json.loads(file.read_text())
    settings[group].update(values)
    file.write_text(json.dumps(settings))


@pytest.mark.parametrize("method", METHODS)
def test_its_checkpoints_load(method, tmp_path):
    checkpoint = unpacked(method, tmp_path) / "checkpoint-4"
    assert json.loads((checkpoint / "config.json").read_text())["pretraining"]["noise"] == "independent"
    stored = load_file(checkpoint / "model.safetensors")
    model = SynCoForPreTraining.from_pretrained(checkpoint)
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert "noise" not in model.config.pretraining
    assert model.settings.method == method
    features = AutoModel.from_pretrained(checkpoint)
    for name, value in features.state_dict().items():
        assert torch.equal(value, stored[f"synco.{name}"]), name


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_it_began_ends_as_it_would_have_ended_it(method, tmp_path):
    directory, recorded = unpacked(method, tmp_path), CONTINUATION["runs"][method]
    main([*recorded["flags"], "--output-dir", str(directory), "--resume"])
    last = directory / "checkpoint-12"
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    resumed = [entry for entry in history if "loss" in entry and entry["step"] > recorded["last_checkpoint"]]
    assert len(resumed) == len(recorded["history_of_resumed"]) == 8
    for ours, theirs in zip(resumed, recorded["history_of_resumed"], strict=True):
        planned = ("step", "learning_rate", "momentum", "synthetic_active", "num_synthetic")
        assert [ours[name] for name in planned] == pytest.approx([theirs[name] for name in planned], rel=1e-12)
        if not theirs["synthetic_active"]:  # the noise of synthetic negatives comes from other numbers now
            for name in ("loss", "grad_norm", "contrast_accuracy", "feature_std"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-3), (name, ours["step"])
        assert math.isfinite(ours["loss"])
    assert sum(entry["synthetic_active"] for entry in resumed) == (4 if method == "synco-v2" else 0)
    sum_of_rates = sum(entry["learning_rate"] for entry in recorded["history_of_resumed"])
    weights = load_file(last / "model.safetensors")
    assert weights.keys() == recorded["norms_at_the_end"].keys()
    for name, norm in recorded["norms_at_the_end"].items():
        # Under other noise four steps of AdamW move each element of what the loss reaches by 1e-3 at most a step.
        slack = 4e-3 * weights[name].numel() ** 0.5 if method == "synco-v2" else 0.0
        # Biases that BatchNorm takes away again, the last norm's too, and of keys, which softmax leaves out, have
        # no gradient but the rounding of this machine, of which AdamW makes whole steps.
        following = name.replace("0.bias", "1.running_mean")
        if name.endswith((".norm.bias", "qkv.bias")) or (following != name and following in weights):
            slack = max(slack, sum_of_rates * weights[name].numel() ** 0.5)
        if method == "moby" or ("queue" not in name and "running_" not in name):
            assert weights[name].double().norm().item() == pytest.approx(norm, rel=1e-3, abs=slack + 1e-6), name
    assert "noise" not in json.loads((directory / SETTINGS_FILE).read_text())["pretraining"]


def test_settings_that_are_no_more_are_refused_by_name(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"config.pretraining has noise='marginal', which an earlier version"):
        PretrainingSettings.from_dict({"method": "synco-v2", "noise": "marginal"})
    assert PretrainingSettings.from_dict({"noise": "independent"}) == PretrainingSettings()
    for group, name, value in (("pretraining", "noise", "marginal"), ("training", "augment_on", "reference")):
        directory = unpacked("moby", tmp_path / name)
        rewrite(directory / SETTINGS_FILE, group, **{name: value})
        before = (directory / SETTINGS_FILE).read_bytes()
        with pytest.raises(SystemExit) as ended:
            main([*CONTINUATION["runs"]["moby"]["flags"], "--output-dir", str(directory), "--resume"])
        assert ended.value.code == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert f"{SETTINGS_FILE} has {name}={value!r}" in lines[-1]
        assert "start a new run" in lines[-1]
        assert (directory / SETTINGS_FILE).read_bytes() == before


def test_its_results_are_tabled(tmp_path):
    for name in ("knn", "ood", "robustness"):
        (tmp_path / f"{name}.json").write_bytes((DATA / f"{name}.json").read_bytes())
    shown = invoke(["results", "table", str(tmp_path), "--no-paper"])
    assert shown.exit_code == 0, shown.output
    for number in ("34.9", "96.5", "17.5"):
        assert number in shown.output


def test_its_robustness_goes_on_after_the_last_finished_cell(tmp_path):
    pytest.importorskip("imagecorruptions")
    recorded, output = CONTINUATION["robustness"], tmp_path / "robustness.json"
    probe = unpacked("probe", tmp_path)
    output.write_bytes((DATA / "robustness.json").read_bytes())
    flags = [str(probe) if flag == "probe" else flag for flag in recorded["flags"]]
    shown = invoke(["evaluate", "robustness", *flags, "--output", str(output)])
    assert shown.exit_code == 0, shown.output
    assert "7 of 16 cells are in" in shown.output
    # One image of 40 is 2.5 %; the cells that are measured here may differ by one.
    found = json.loads(output.read_text())["metrics"]
    assert found.keys() == recorded["metrics_at_the_end"].keys()
    for name, value in recorded["metrics_at_the_end"].items():
        assert found[name] == pytest.approx(value, abs=2.6), name
