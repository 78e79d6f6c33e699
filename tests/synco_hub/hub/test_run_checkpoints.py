"""A run that was stopped is loaded from its newest whole checkpoint, and says so."""

import json
import logging

import pytest
import torch
from command_line import invoke
from PIL import Image

import synco_hub
from synco_hub.data.pretraining_images import FINGERPRINTS_FILE
from synco_hub.hub.loading import load_classifier, load_model, load_with_head
from synco_hub.hub.model_names import find_pretraining_folders
from synco_hub.hub.pull import install_checkpoint
from synco_hub.hub.run_checkpoints import MANIFEST_FILE, find_newest_state, list_checkpoints
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor
from trainers.runs.checkpoints import UNFINISHED, commit_checkpoint

DATA = "fractals:num_classes=3,train_images_per_class=4,test_images_per_class=3"


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run with checkpoints 3, 9 and 10, of which the last is damaged."""
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    for step in (3, 9, 10):
        torch.manual_seed(step)
        unfinished = tmp_path / "run" / UNFINISHED / f"checkpoint-{step}"
        config = SynCoConfig(backbone="vit-nano", depth=1, num_labels=3)
        SynCoForImageClassification(config).save_pretrained(unfinished)
        image_processor(32).save_pretrained(unfinished)
        commit_checkpoint(unfinished, tmp_path / "run" / f"checkpoint-{step}", {"step": step})
    (tmp_path / "run" / "checkpoint-10" / "config.json").write_text("{}")
    return tmp_path / "run"


@pytest.mark.parametrize("load", [load_model, load_classifier, load_with_head])
def test_the_newest_whole_checkpoint_is_loaded_and_named(stopped, load, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = load(str(stopped))
    expected = load(str(stopped / "checkpoint-9"))
    theirs = expected[0].state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in loaded[0].state_dict().items())
    lines = [record.message for record in caplog.records if "not at its end" in record.message]
    assert lines == [f"{stopped} is a run that is not at its end: {stopped / 'checkpoint-9'} is taken"]
    assert "checkpoint-10 is damaged and is passed over" in caplog.text


def test_a_measurement_says_which_checkpoint_it_was_of(stopped):
    result = synco_hub.evaluate("knn", model=stopped, dataset=DATA, num_workers=0, progress=False)
    assert result.model.name == str(stopped / "checkpoint-9")


def keep(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FINGERPRINTS_FILE).write_bytes(b"")
    return folder


def say(folder, name, **values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(values))
    return folder


def test_fingerprints_are_found_from_whatever_was_made_of_a_run(stopped, tmp_path, monkeypatch):
    assert find_pretraining_folders(str(stopped)) == []
    keep(stopped)
    start = keep(tmp_path / "start")
    say(stopped, "pretraining_settings.json", start={"base_model": str(start)})
    of_both = [stopped, start]
    for name in (str(stopped), str(stopped / "checkpoint-9"), find_newest_state(str(stopped))):
        assert find_pretraining_folders(name) == of_both
    head = say(tmp_path / "head", "linear_head.json", model=str(stopped))
    probe = say(tmp_path / "probe", "classification_settings.json", model=str(head))
    adapter = say(tmp_path / "adapter", "adapter_config.json", base_model_name_or_path=str(stopped))
    for made in (head, probe, adapter):
        assert find_pretraining_folders(str(made)) == of_both
    mixed = say(tmp_path / "mixed", "average.json", start={"base_model": str(start)}, end={"base_model": str(stopped)})
    assert sorted(find_pretraining_folders(str(mixed))) == sorted(of_both)
    monkeypatch.chdir(tmp_path)
    say(tmp_path / "probe", "classification_settings.json", model="run")
    assert find_pretraining_folders("probe") == of_both
    say(tmp_path / "probe", "classification_settings.json", model="probe")  # names itself
    assert find_pretraining_folders("probe") == []
    for name in ("timm:vit_tiny_patch16_224", "organisation/name", "synco-v2-deit-s", "nothing"):
        assert find_pretraining_folders(name) == []


def test_fingerprints_go_with_an_installed_checkpoint(stopped):
    keep(stopped / "checkpoint-9")
    installed = install_checkpoint(stopped / "checkpoint-9", "mine")
    assert find_pretraining_folders("mine") == [installed]
    (installed / FINGERPRINTS_FILE).unlink()
    assert find_pretraining_folders("mine") == [stopped / "checkpoint-9"]  # where it was installed from


def test_attention_of_a_stopped_run(stopped, tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "image.png")
    flags = ["--model", str(stopped), "--image", str(tmp_path / "image.png"), "--output", str(tmp_path / "a.png")]
    shown = invoke(["attention", *flags])
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "a.png").is_file()


def test_a_finished_run_and_what_is_no_run_are_taken_as_they_are(stopped, tmp_path):
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(stopped)
    for name in (str(stopped), str(tmp_path), "timm:vit_tiny_patch16_224", "organisation/name"):
        assert find_newest_state(name) == name


def test_a_run_without_anything_to_load_says_what_to_do(stopped):
    assert [path.name for path in list_checkpoints(stopped)] == ["checkpoint-3", "checkpoint-9", "checkpoint-10"]
    for step in (3, 9):
        (stopped / f"checkpoint-{step}" / MANIFEST_FILE).unlink()
    with pytest.raises(ValueError, match=r"stopped, with no complete checkpoint: continue it with --resume"):
        load_model(str(stopped))
