"""`synco_hub.cli.data` by the command line, as a user calls it."""

import json
from dataclasses import replace

import pytest
from command_line import invoke
from data_trees.original import write_original
from PIL import Image

from synco_hub.data import load_dataset
from synco_hub.data.catalog.sets import CATALOG
from synco_hub.data.segmentation import SEGMENTATION_SETS
from synco_hub.settings import DatasetChoice


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_json_has_every_row():
    result = invoke(["data", "list", "--json"])
    rows = {row["name"]: row for row in json.loads(result.output)}
    assert list(rows) == list(CATALOG)
    keys = {"name", "dataset_id", "splits", "num_classes", "counts", "metric", "licence"}
    assert all(keys <= set(row) for row in rows.values())
    flowers = rows["flowers102"]
    assert flowers["splits"] == {"train": ["train", "validation"], "test": ["test"]}
    assert (flowers["counts"], flowers["metric"]) == ({"train": 2040, "test": 6149}, "mean per-class accuracy")
    assert rows["imagenet-100"]["counts"]["train"] == 126689
    assert rows["imagenet-100"]["table_9"]["train"] == 128116
    assert "not confirmed" in rows["sun397"]["licence"]


def test_people_read_one_line_a_set_and_the_reason_of_each_difference():
    lines, masked = (part.splitlines() for part in invoke(["data", "list"]).output.split("\n\n"))
    assert [line.split()[0] for line in masked[1:]] == list(SEGMENTATION_SETS)
    assert "evaluate segmentation" in masked[0]
    assert len(lines) == len(CATALOG) + sum(bool(row.difference) for row in CATALOG.values())
    assert next(line for line in lines if line.startswith("imagenet-c ")).endswith("not on the Hub")
    assert any("10 % list" in line for line in lines)


def small_row(monkeypatch, name, splits, num_classes):
    """The row of a set, with the counts of a tree that a test can write."""
    counts = {split: len(labels) for split, labels in splits.items()}
    monkeypatch.setitem(CATALOG, name, replace(CATALOG[name], counts=counts, num_classes=num_classes, per_class={}))


def test_verify_of_pets(tmp_path, monkeypatch):
    tree = write_original("oxford-pets", tmp_path)
    small_row(monkeypatch, "oxford-pets", tree.labels, 37)
    command = ["data", "verify", "oxford-pets", "--data-dir", str(tmp_path)]
    whole = invoke(command)
    assert (whole.exit_code, whole.output.count("agrees")) == (0, 2), whole.output
    removed = load_dataset(DatasetChoice("oxford-pets", data_dir=str(tmp_path)), "test").names[3]
    (tmp_path / "images" / removed).unlink()
    damaged = invoke([*command, "--json"])
    assert damaged.exit_code == 1
    verdict = json.loads(damaged.output)["test"]
    assert (verdict["agrees"], verdict["images"], verdict["expected_images"]) == (False, 36, 37)
    assert removed in verdict["problems"][0]


def test_verify_of_the_real_row_says_every_difference(tmp_path):
    write_original("caltech101", tmp_path)
    run = invoke(["data", "verify", "caltech101", "--data-dir", str(tmp_path)])
    assert run.exit_code == 1
    assert "agrees   train: 3,060 images of 3,060, Table 9 prints 3,060; 102 classes of 102" in run.output
    assert "DIFFERS  test: 102 images of 6,085, Table 9 prints 6,085; 102 classes of 102" in run.output
    assert "102 times 30" in run.output


def test_verify_of_exchanged_splits(tmp_path, monkeypatch):
    tree = write_original("cifar100", tmp_path)
    small_row(monkeypatch, "cifar100", {"train": tree.labels["test"], "test": tree.labels["train"]}, 100)
    run = invoke(["data", "verify", "cifar100", "--data-dir", str(tmp_path)])
    assert run.exit_code == 1
    assert run.output.count("train and test look exchanged") == 2


def photographs(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number, 2 * number, 0)).save(root / name)
    return root


def test_prepare_a_folder_and_read_it(tmp_path, offline):
    source = photographs(tmp_path / "in", *(f"train/{c}/{n}.png" for c in "ab" for n in range(9)), "test/a/x.png")
    (source / "train/a/3.png").write_bytes(b"broken")
    command = ["data", "prepare", str(source), "--output", str(tmp_path / "out"), "--shard-size", "300"]
    refused = invoke(command)
    assert refused.exit_code == 1
    assert "--max-bad-fraction" in str(refused.exception)
    run = invoke([*command, "--max-bad-fraction", "0.1"])
    assert run.exit_code == 0, run.exception
    assert "train: 17 images in" in run.output
    assert "left out 1 unreadable: a/3.png" in run.output
    read = load_dataset(tmp_path / "out", "train")
    assert (len(read), read.class_names, len(load_dataset(tmp_path / "out", "test"))) == (17, ["a", "b"], 1)
    other = invoke(["data", "prepare", "fractals", "--output", str(tmp_path / "out")])
    assert "holds another source" in str(other.exception)


def test_prepare_images_without_classes_and_a_set_of_test_images(tmp_path, offline):
    source = photographs(tmp_path / "in", "a.png", "b.png")
    run = invoke(["data", "prepare", str(source), "--output", str(tmp_path / "out")])
    assert run.exit_code == 0, run.exception
    assert "no test split" in run.output
    write_original("imagenet-r", tmp_path / "r")
    command = ["data", "prepare", "imagenet-r", "--data-dir", str(tmp_path / "r"), "--output", str(tmp_path / "r-out")]
    run = invoke(command)
    assert run.exit_code == 0, run.exception
    assert load_dataset(DatasetChoice("imagenet-r", data_dir=str(tmp_path / "r-out")), "test").num_classes == 200


def test_a_folder_of_the_sets_own_name_is_not_taken_for_it(tmp_path, monkeypatch, offline):
    tree = write_original("dtd", tmp_path)
    small_row(monkeypatch, "dtd", tree.labels, 47)
    monkeypatch.chdir(tmp_path)
    prepared = invoke(["data", "prepare", "dtd", "--data-dir", "dtd", "--output", "out"])
    assert prepared.exit_code == 0, prepared.exception
    assert len(load_dataset(DatasetChoice("dtd", data_dir="out"), "test")) == CATALOG["dtd"].counts["test"]
    whole = invoke(["data", "verify", "dtd", "--data-dir", "dtd"])
    assert whole.exit_code == 0, whole.output
    # Without --data-dir the help promises the Hub copy.
    asked = []
    monkeypatch.setattr(
        "synco_hub.data.catalog.loading.load_table",
        lambda source, split: asked.append(source.dataset) or load_dataset("out", split.replace("+validation", "")),
    )
    run = invoke(["data", "verify", "dtd"])
    assert set(asked) == {CATALOG["dtd"].dataset_id}, run.exception
    assert "reading the Hub copy; --data-dir ./dtd verifies the folder" in run.stderr


def test_prepare_takes_the_sets_own_splits_beside_a_folder_of_its_name(tmp_path, monkeypatch, offline):
    write_original("imagenet-r", tmp_path / "imagenet-r")
    monkeypatch.chdir(tmp_path)
    command = ["data", "prepare", "imagenet-r", "--data-dir", "imagenet-r", "--output", "out"]
    run = invoke(command)
    assert run.exit_code == 0, run.exception
    assert load_dataset(DatasetChoice("imagenet-r", data_dir="out"), "test").num_classes == 200


@pytest.mark.parametrize("command", ["list", "verify", "prepare"])
def test_help_has_an_example(command):
    shown = " ".join(invoke(["data", command, "--help"]).output.split())
    assert f"Example: synco-hub data {command}" in shown


def test_prepare_names_of_any_bytes_and_all_images(tmp_path, offline):
    source = photographs(tmp_path / "in", *(f"{kind}/{n}.png" for kind in "ab" for n in range(9)), "a/caf\udce9.png")
    (source / "b" / "3.png").write_bytes(b"<html>")
    command = ["data", "prepare", str(source), "--max-bad-fraction", "0.2", "--output"]
    run = invoke([*command, str(tmp_path / "out")])
    assert run.exit_code == 0, run.exception
    assert "pretraining could take 19 images of" in run.output
    run = invoke([*command, str(tmp_path / "all"), "--split", "pretraining"])
    assert run.exit_code == 0, run.exception
    assert "1 × it is a web page" in run.output
    assert len(load_dataset(tmp_path / "all", "train")) == 18


def test_prepare_one_image_a_class(tmp_path, offline):
    source = photographs(tmp_path / "in", *(f"{kind}/1.png" for kind in "abc"))
    run = invoke(["data", "prepare", str(source), "--output", str(tmp_path / "out")])
    assert run.exit_code == 0, run.exception
    assert "no test split: " in run.output
    assert "none of its 3 classes has a second image" in run.output
