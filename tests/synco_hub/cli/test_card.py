"""A card is written from what lies in the directory, and its numbers are measured again (`synco_hub.cli.card`)."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from command_line import invoke
from PIL import Image
from transformers import ViTConfig, ViTModel

from synco_hub import protocols
from synco_hub.cli.demo import measure
from synco_hub.data import load_dataset
from synco_hub.hub.card.model_card import refresh_card
from synco_hub.hub.loading import LinearHead, load_model, save_classifier
from synco_hub.hub.publication.checks import find_conversion_problems
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult
from synco_hub.settings import DatasetChoice, KnnSettings
from synco_hub.zoo import EMBEDDED, ZOO


def test_card_of_a_directory_without_the_word_write(tmp_path):
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / "my-vit")
    for arguments in (["--licence", "mit", str(tmp_path / "my-vit")], ["write", str(tmp_path / "my-vit")]):
        done = invoke(["card", *arguments])
        assert done.exit_code == 0, done.exception
        assert "with 0 measured numbers" in done.output
        assert "license: mit" in (tmp_path / "my-vit" / "README.md").read_text()


def test_errors_and_help(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert "type 'vit'" in str(invoke(["card", str(tmp_path)]).exception)
    assert "verify" in invoke(["card", "--help"]).output
    assert invoke(["card", "verify", "--help"]).exit_code == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A random network, measured on the embedded fractals, with its card."""
    directory = tmp_path_factory.mktemp("verified") / "my-vit"
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone="vit-nano")).eval()
    model.save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    measure(model, "my-vit").save(directory / "results_knn.json")
    refresh_card(directory, licence="mit")
    return directory


def verify(directory, *flags: str):
    return invoke(["card", "verify", str(directory), "--num-workers", "0", *flags])


def altered(run, **changes):
    values = json.loads((run / "results_knn.json").read_text())
    for key, change in changes.items():
        values[key] = {**values[key], **change}
    return EvaluationResult.from_dict(values)


def test_true_numbers_hold_and_false_ones_do_not(run):
    done = verify(run, "--tolerance", "0")
    assert done.exit_code == 0, done.exception
    stated = json.loads((run / "results_knn.json").read_text())["metrics"]["top1_k10"]
    assert f"top1_k10 stated {stated:.2f}, measured {stated:.2f}" in done.output
    original = (run / "results_knn.json").read_text()
    try:
        altered(run, metrics={"top1_k10": stated + 5}).save(run / "results_knn.json")
        both = verify(run)
        assert "the card does not say" in str(both.exception)
        refresh_card(run)
        assert f"knn on fractals: top1_k10 stated {stated + 5:.2f}, measured {stated:.2f}" in str(
            verify(run).exception
        )
        assert verify(run, "--tolerance", "6").exit_code == 0
    finally:
        (run / "results_knn.json").write_text(original)
        refresh_card(run)


def test_numbers_of_an_earlier_version_are_of_the_same_table(run, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    fractals = load_dataset("fractals:num_classes=2,train_images_per_class=6,test_images_per_class=4", "test")
    cells = {"image": [{"bytes": fractals.encoded(k), "path": None} for k in range(8)], "label": ["a", "b"] * 4}
    (tmp_path / "table").mkdir()
    for split in ("train", "test"):
        datasets.Dataset.from_dict(cells).to_parquet(tmp_path / "table" / f"{split}-0.parquet")
    directory = tmp_path / "my-vit"
    shutil.copytree(run, directory)
    again = protocols.measure(
        "knn", str(directory), DatasetChoice(str(tmp_path / "table")), KnnSettings(num_workers=0)
    )

    def state(fingerprint):
        test, train = (
            replace(each, fingerprint=fingerprint(each.split)) for each in (again.dataset, again.training_dataset)
        )
        replace(again, dataset=test, training_dataset=train).save(directory / "results_knn.json")
        refresh_card(directory, licence="mit")

    state(lambda split: load_dataset(str(tmp_path / "table"), split).description.earlier_fingerprint)
    assert verify(directory).exit_code == 0
    state(lambda split: "0" * 16)
    assert "the images here are others" in str(verify(directory).exception)


def test_a_result_of_other_weights_is_left_out_by_name(run, tmp_path):
    further = tmp_path / "further"
    shutil.copytree(run, further)
    torch.manual_seed(1)
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(further)
    done = invoke(["card", str(further)])
    assert done.exit_code == 0, done.exception
    assert "left out: results_knn.json is about other weights than these" in done.output
    assert "measure again on fractals with `synco-hub evaluate knn --model" in done.output
    assert "with 0 measured numbers" in done.output
    assert "results_knn.json is about other weights" in str(verify(further).exception)


def test_a_conversion_of_other_weights_is_no_account_of_these(tmp_path):
    torch.manual_seed(0)
    stock = ViTModel(
        ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16),
        add_pooling_layer=False,
    )
    stock.save_pretrained(tmp_path / "stock")
    directory = tmp_path / "vit"
    assert invoke(["convert", str(tmp_path / "stock"), "--output", str(directory)]).exit_code == 0
    converted = "source.sha256" in (directory / "README.md").read_text()
    assert converted
    assert find_conversion_problems(directory) == []
    # A head that is trained on these weights leaves them what they were.
    network, processor = load_model(str(directory))
    save_classifier(directory, str(directory), network, processor, LinearHead(torch.ones(2, 32), torch.ones(2), "ab"))
    assert "left out" not in invoke(["card", str(directory)]).output
    for tensor in network.state_dict().values():
        tensor.add_(1.0)
    network.save_pretrained(directory)
    done = invoke(["card", str(directory)])
    assert "left out: conversion_report.json is about other weights than these" in done.output
    assert "source.sha256" not in (directory / "README.md").read_text()
    assert "other weights than these" in find_conversion_problems(directory)[0]
    assert "other weights than these" in str(verify(directory).exception)
    # What earlier versions wrote does not say which weights, and counts as it did.
    report = json.loads((directory / "conversion_report.json").read_text())
    (directory / "conversion_report.json").write_text(json.dumps({**report, "weights": None}))
    assert "left out" not in invoke(["card", str(directory)]).output


def test_what_cannot_be_measured_here_is_said_and_is_no_success(run, tmp_path):
    original = (run / "results_knn.json").read_text()
    try:
        for change in ({"name": "holiday"}, {"fingerprint": "other"}):
            altered(run, dataset=change).save(run / "results_knn.json")
            refresh_card(run)
            done = verify(run)
            assert done.exit_code == 1
            assert "none of the card's numbers can be measured here: knn on" in str(done.exception)
        Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
        assert verify(run, "--dataset", str(tmp_path)).exit_code == 1
    finally:
        (run / "results_knn.json").write_text(original)
        refresh_card(run)
    assert "has no card" in str(verify(tmp_path).exception)


def test_a_checkpoint_that_ships_is_verified_by_its_name_and_its_card_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in EMBEDDED.rglob("*") if file.is_file()}
    done = verify("moby-vit-nano", "--tolerance", "0.2")
    assert done.exit_code == 0, done.exception
    assert f"top1_k10 stated {ZOO['moby-vit-nano'].measured['fractals_knn10_top1']:.2f}" in done.output
    for directory in ("moby-vit-nano", str(EMBEDDED / "moby-vit-nano")):
        refused = str(invoke(["card", directory, "--licence", "mit"]).exception)
        assert re.search(r"belongs to the package.*copy it .*then `synco-hub card ./moby-vit-nano`", refused)
    assert before == {
        file: (file.read_bytes(), file.stat().st_mtime_ns) for file in EMBEDDED.rglob("*") if file.is_file()
    }
