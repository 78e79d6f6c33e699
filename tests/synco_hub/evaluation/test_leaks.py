"""Test images that were planted from pretraining images are found and no others; where the line stands."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from photographs import photograph, save
from PIL import Image

import synco_hub
from synco_hub.data import load_dataset
from synco_hub.data.pretraining_images import (
    FINGERPRINTS_FILE,
    FingerprintRecorder,
    PretrainingData,
    PretrainingImages,
)
from synco_hub.evaluation import leaks
from synco_hub.evaluation.leaks import PictureFiles, check_leak, find_leak
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.settings import DatasetChoice

KNN = {"k": 1, "num_workers": 0, "progress": False, "device": "cpu"}


def keep_fingerprints(root, run):
    """What a run on the training images of a folder leaves."""
    choice = DatasetChoice(str(root))
    images = load_dataset(choice, "pretraining")
    run.mkdir(exist_ok=True)
    recorder = FingerprintRecorder(run)
    recorder.begin(PretrainingData.of(images, choice, None, None, False), False)
    for index in range(len(images)):
        recorder.note(0, index, images.load_pixels(index))
    recorder.finish(images)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for number in range(30):
        save(root, f"train/{'ab'[number % 2]}/{number:02d}.png", photograph(number))
    for number in range(100, 112):
        save(root, f"test/{'ab'[number % 2]}/{number}.png", photograph(number))
    return root


@pytest.fixture(scope="module")
def leaky(photographs, tmp_path_factory):
    """The same with copies among the test images."""
    root = tmp_path_factory.mktemp("leaky") / "leaky"
    shutil.copytree(photographs, root)
    save(root, "test/a/exact0.png", photograph(0), compress_level=0)
    shutil.copy(root / "train/b/01.png", root / "test/b/exact1.png")
    save(root, "test/a/near2.jpg", photograph(2), quality=40)
    save(root, "test/a/near3.png", photograph(3)[:, ::-1])
    save(root, "test/b/near4.png", photograph(4)[12:, :144])
    save(root, "test/b/near5.png", Image.fromarray(photograph(5)).resize((250, 200)))
    keep_fingerprints(root, root / ".run")
    return root


def look(root, **changes):
    pretraining = PretrainingImages.read(root / ".run")
    pretraining = replace(pretraining, data=replace(pretraining.data, **changes))
    return find_leak(load_dataset(str(root), "test"), pretraining, progress=False)


def test_planted_copies_are_found_and_no_others(leaky):
    leak = look(leaky)
    assert leak.exact == ["a/exact0.png", "b/exact1.png"]
    assert leak.near == ["a/near2.jpg", "a/near3.png", "b/near4.png", "b/near5.png"]
    assert (leak.alike, leak.images, leak.looked_at, leak.kept) == ([], 18, 18, (30, 30))
    line = leak.describe("leaky", "mine")
    assert line == (
        "6 of 18 test images of leaky are among the images that the model was pretrained on (mine): 2 exact "
        "(a/exact0.png, b/exact1.png), 4 near (a/near2.jpg, a/near3.png, b/near4.png, …)"
    )


def test_a_picture_of_which_pretraining_saw_a_part_is_found(photographs, tmp_path):
    for number in range(8):
        save(tmp_path, f"train/a/{number}.png", photograph(number)[6:114, 8:152])
        save(tmp_path, f"test/a/{number}.png", photograph(number + (0 if number < 4 else 50)))
    keep_fingerprints(tmp_path, tmp_path / ".run")
    leak = look(tmp_path)
    assert leak.near == [f"a/{number}.png" for number in range(4)]
    assert "4 of 8 test images of x are near copies of images that the model was pretrained on" in leak.describe(
        "x", "y"
    )


def test_what_is_not_at_hand_is_named_only_where_it_looks_the_same(leaky):
    leak = look(leaky, streamed=True)
    assert leak.exact == ["a/exact0.png", "b/exact1.png"]
    assert set(leak.alike) >= {"a/near2.jpg", "a/near3.png", "b/near5.png"}
    assert all("near" in name for name in leak.alike)
    assert "more look like a pretraining image of x that is not at hand to be compared" in leak.describe("y", "x")


def test_no_leak_no_noise(photographs, tmp_path, caplog):
    keep_fingerprints(photographs, tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        assert check_leak(load_dataset(str(photographs), "test"), [tmp_path / "run"], progress=False) == []
        assert check_leak(PictureFiles("nothing", []), [tmp_path / "run"], progress=False) == []
        assert check_leak(load_dataset(str(photographs), "test"), [tmp_path / "nowhere"], progress=False) == []
    assert caplog.records == []


def test_many_images_are_looked_at_in_a_time_that_has_a_bound(leaky, monkeypatch):
    monkeypatch.setattr(leaks, "_TINY_PAIRS_AT_MOST", 30 * 3)
    leak = look(leaky)
    assert leak.exact == ["a/exact0.png", "b/exact1.png"]
    assert leak.looked_at == 3
    assert leak.describe("leaky", "mine").endswith("near ones were looked for among 3")
    assert "fingerprints of 30 of 40 pretraining images are kept" in look(leaky, num_images=40).describe("a", "b")


def test_every_kind_of_file_is_the_same_picture_as_itself(tmp_path):
    rough = np.random.default_rng(0).integers(0, 65536, (40, 50), dtype=np.uint16)
    frames = [Image.fromarray(photograph(number)) for number in (1, 2)]
    for folder in ("train/a", "test/a"):
        place = tmp_path / folder
        place.mkdir(parents=True)
        Image.fromarray(rough).save(place / "sixteen.png")
        Image.fromarray(photograph(3)).convert("CMYK").save(place / "cmyk.jpg")
        see_through = Image.fromarray(photograph(4)).convert("RGBA")
        see_through.putalpha(Image.fromarray(photograph(5)[..., 0]))
        see_through.save(place / "see-through.png")
        frames[0].save(place / "moving.gif", save_all=True, append_images=frames[1:])
        Image.new("RGB", (30, 20), "white").save(place / "flat ☃ $x$.png")
        (place / "broken.png").write_bytes(b"nothing")
    train = load_dataset(str(tmp_path), "pretraining")
    recorder = FingerprintRecorder(tmp_path)
    recorder.begin(PretrainingData.of(train, DatasetChoice(str(tmp_path)), None, None, False), False)
    recorder.note(0, 0, np.zeros((1, 1, 3), np.uint8))
    recorder.finish(train)
    leak = find_leak(load_dataset(str(tmp_path), "test"), PretrainingImages.read(tmp_path), progress=False)
    names = ["cmyk.jpg", "flat ☃ $x$.png", "moving.gif", "see-through.png", "sixteen.png"]
    assert leak.exact == [f"a/{name}" for name in names]
    assert (leak.images, leak.near) == (5, [])


def test_pictures_by_name_and_source(leaky):
    file = leaky / "train/a/00.png"
    pictures = PictureFiles("two", [("file", file), ("bytes", file.read_bytes)])
    assert np.array_equal(pictures.load_pixels(0), pictures.load_pixels(1))
    assert find_leak(pictures, PretrainingImages.read(leaky / ".run"), progress=False).exact == ["file", "bytes"]


@pytest.fixture(scope="module")
def model(leaky, tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "run"
    torch.manual_seed(0)
    SynCoModel(SynCoConfig("vit-nano")).save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    shutil.copy(leaky / ".run" / FINGERPRINTS_FILE, directory)
    return directory


def test_the_line_stands_in_the_result_and_in_its_file(model, leaky, photographs, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        result = synco_hub.evaluate("knn", model, leaky, output=tmp_path / "knn.json", **KNN)
    said = [note for note in result.notes if "pretrained on" in note]
    assert len(said) == 1
    assert said[0].startswith("6 of 18 test images of leaky")
    assert json.loads((tmp_path / "knn.json").read_text())["notes"] == list(result.notes)
    assert [record.getMessage() for record in caplog.records].count(said[0]) == 1
    for changes in ({"leak_check": False}, {"random_network": True}):
        quiet = synco_hub.evaluate("knn", model, leaky, output=tmp_path / "quiet.json", **KNN, **changes)
        assert not any("pretrained on" in note for note in quiet.notes)
    clean = synco_hub.evaluate("knn", model, photographs, **KNN)
    assert not any("pretrained on" in note for note in clean.notes)
    assert clean.metrics.keys() == result.metrics.keys()


def test_a_damaged_file_of_fingerprints_ends_no_measurement(model, leaky, tmp_path):
    shutil.copytree(model, tmp_path / "damaged")
    (tmp_path / "damaged" / FINGERPRINTS_FILE).write_bytes(b"torn")
    result = synco_hub.evaluate("knn", tmp_path / "damaged", leaky, **KNN)
    assert [note for note in result.notes if note.startswith("no leak check: ")]


def test_fractals_of_a_class_look_alike_and_are_no_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    choice = DatasetChoice("fractals:num_classes=10,train_images_per_class=20,test_images_per_class=10")
    train, test = (load_dataset(choice, split, image_size=32) for split in ("pretraining", "test"))
    recorder = FingerprintRecorder(tmp_path)
    recorder.begin(PretrainingData.of(train, choice, None, 32, False), False)
    for index in range(len(train)):
        recorder.note(0, index, train.load_pixels(index))
    pretraining = PretrainingImages.read(tmp_path)
    assert find_leak(test, pretraining, progress=False).describe("a", "b") is None
    assert len(find_leak(train, pretraining, progress=False).exact) == len(train)
