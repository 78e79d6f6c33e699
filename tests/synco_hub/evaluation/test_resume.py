import os
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from synco_hub.data import load_dataset
from synco_hub.data.corruptions import WatermarkedImages
from synco_hub.data.fractals.dataset import FractalDataset
from synco_hub.data.subsets import ImageSubset
from synco_hub.evaluation import resume
from synco_hub.evaluation.resume import (
    ResumableFolder,
    check_same_measurement,
    hash_files,
    hash_images,
    identify_model,
    read_json,
    write_json,
)
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel
from synco_hub.weights_identity import hash_weights


def test_a_folder_belongs_to_one_measurement(tmp_path):
    ResumableFolder(tmp_path / "a", {"scales": (1.0, 0.5), "weights": "x"})
    ResumableFolder(tmp_path / "a", {"weights": "x", "scales": [1.0, 0.5]})
    with pytest.raises(ValueError, match=r"weights: 'x' there, 'y' now\).*delete this folder"):
        ResumableFolder(tmp_path / "a", {"scales": (1.0, 0.5), "weights": "y"})
    (tmp_path / "b").mkdir()
    ResumableFolder(tmp_path / "b", {"weights": "x"})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="not empty"):
        ResumableFolder(tmp_path / "c", {"weights": "x"})


def test_what_differs_is_named_and_long_values_are_cut():
    theirs, ours = {"a": 1, "b": [1, 2], "gone": 0}, {"a": 1, "b": (1, 3), "c": "x" * 500}
    said = f"b: [1, 2] there, [1, 3] now; gone: 0 there, None now; c: None there, '{'x' * 59}… now"
    with pytest.raises(ValueError, match=re.escape(f"it holds another measurement ({said}): remove it")):
        check_same_measurement("it holds", theirs, ours, "remove it")
    check_same_measurement("it holds", {"b": [1]}, {"b": (1,)}, "remove it")


def test_a_part_counts_while_its_images_are_the_same(tmp_path):
    folder = ResumableFolder(tmp_path / "kept", {"weights": "x"})
    assert folder.load_part("p.json", "one") is None
    folder.save_part("p.json", "one", {"correct": [True, False]})
    assert folder.load_part("p.json", "one") == {"correct": [True, False]}
    assert folder.load_part("p.json", "other") is None
    assert folder.load_tensors("t.safetensors", "one") is None
    tensors = {"logits": torch.rand(3, 2), "indices": torch.empty(0, dtype=torch.int64)}
    folder.save_tensors("t.safetensors", "one", tensors)
    found = folder.load_tensors("t.safetensors", "one")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert folder.load_tensors("t.safetensors", "other") is None
    assert folder.load("boxes.json") == {}
    folder.save("boxes.json", {"a": 1})
    assert folder.load("boxes.json") == {"a": 1}
    file = tmp_path / "kept" / "t.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"t\.safetensors.*delete it"):
        folder.load_tensors("t.safetensors", "one")


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = ResumableFolder(None, {"weights": "x"})
    folder.save_part("p.json", "one", {"a": 1})
    folder.save_tensors("t.safetensors", "one", {"a": torch.zeros(1)})
    folder.save("b.json", {"a": 1})
    assert folder.load_part("p.json", "one") is folder.load_tensors("t.safetensors", "one") is None
    assert not folder.has("p.json")
    assert list(tmp_path.iterdir()) == []


def test_what_version_0_1_kept_is_taken(tmp_path):
    (tmp_path / "measurement.json").write_text('{\n "weights": "x",\n "seed": 1\n}\n')
    (tmp_path / "fgsm").mkdir()
    (tmp_path / "fgsm" / "batch-000000.json").write_text('{\n "contents": "one",\n "indices": [\n  0\n ]\n}\n')
    folder = ResumableFolder(tmp_path, {"weights": "x", "seed": 1})
    assert folder.load_part("fgsm/batch-000000.json", "one") == {"indices": [0]}
    save_file({"logits": torch.ones(1)}, tmp_path / "block.safetensors", metadata={"contents": "one"})
    assert folder.load_tensors("block.safetensors", "one") == {"logits": torch.ones(1)}


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_damaged_parts_are_named(tmp_path, text):
    (tmp_path / "part.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"part\.json.*delete it"):
        read_json(tmp_path / "part.json")
    write_json(tmp_path / "part.json", {"a": 1})
    assert read_json(tmp_path / "part.json") == {"a": 1}


def test_the_fingerprint_sees_every_weight_and_buffer_and_nothing_else():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).bfloat16()
    before = hash_weights(network)
    assert hash_weights(network.eval()) == before
    network[1].running_mean[2] += 1
    changed = hash_weights(network)
    with torch.no_grad():
        network[0].weight[0, 0] += 1
    assert len({before, changed, hash_weights(network)}) == 3
    # In the type that it is stored in a network is the same, but it does not compute the same.
    rounded = identify_model(network)
    exact = identify_model(network.float())
    assert rounded["weights"] == exact["weights"]
    assert rounded != exact


def test_the_same_weights_with_other_heads_are_another_model(tmp_path):
    torch.manual_seed(0)
    one = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    other = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1, num_heads=1))
    other.load_state_dict(one.state_dict())
    ours, theirs = identify_model(one), identify_model(other)
    assert ours["weights"] == theirs["weights"]
    assert ours["configuration"] != theirs["configuration"]
    # Where it lies plays no part.
    for name in ("a", "b"):
        one.save_pretrained(tmp_path / name)
    loaded = [identify_model(SynCoModel.from_pretrained(tmp_path / name)) for name in ("a", "b")]
    assert loaded[0] == loaded[1] == ours


def test_heads_and_class_names_count():
    torch.manual_seed(0)
    config = SynCoConfig(backbone="vit-nano", depth=1, num_labels=2)
    classifier = SynCoForImageClassification(config)
    before = identify_model(classifier)
    classifier.config.id2label = {0: "second", 1: "first"}
    assert identify_model(classifier)["configuration"] != before["configuration"]
    with torch.no_grad():
        classifier.classifier.bias[0] += 1
    assert identify_model(classifier)["weights"] != before["weights"]


@pytest.fixture
def folder(tmp_path):
    """Ten files of one size: nothing but their bytes tells them apart."""
    generator = np.random.default_rng(0)
    for index in range(10):
        path = tmp_path / "data" / "test" / f"c{index % 2}" / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


def test_bytes_count_and_names_places_and_times_do_not(folder, tmp_path, monkeypatch):
    before = hash_images(load_dataset(folder, "test"))
    shutil.copytree(folder, tmp_path / "moved")
    changed = tmp_path / "moved" / "test" / "c1" / "3.bmp"
    os.utime(changed, (1, 1))
    assert hash_images(load_dataset(tmp_path / "moved", "test")) == before
    monkeypatch.setattr(resume, "_RUN", 3)  # however the work is divided
    assert hash_images(load_dataset(folder, "test")) == before
    status = changed.stat()
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x07")
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed.stat().st_size == status.st_size
    images = load_dataset(tmp_path / "moved", "test")
    assert images.description.fingerprint == load_dataset(folder, "test").description.fingerprint
    assert hash_images(images) != before
    # Five files of c0 come first, so that the changed one is the seventh.
    unchanged = [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert hash_images(images, unchanged) == hash_images(load_dataset(folder, "test"), unchanged)


def test_the_order_and_the_missing_file_count(folder):
    files = sorted(folder.rglob("*.bmp"))
    whole = hash_files(files)
    assert hash_files(files[::-1]) != whole
    content = files[2].read_bytes()
    files[2].unlink()
    without = hash_files(files)
    assert without not in (whole, hash_files([*files[:2], *files[3:]]))
    files[2].write_bytes(content)
    assert hash_files(files) == whole


def test_a_part_of_a_data_set_is_its_own_images(folder, tmp_path):
    images = load_dataset(folder, "test")
    part = ImageSubset(images, np.array([1, 4, 6]), "three")
    assert hash_images(part) == hash_images(images, [1, 4, 6])
    drawn = [load_dataset("fractals:test_images_per_class=1", "test", cache_dir=tmp_path / str(i)) for i in range(2)]
    assert hash_images(drawn[0]) == hash_images(drawn[1])
    assert hash_images(drawn[0], [0]) != hash_images(drawn[0], [1])


def test_a_data_set_that_is_drawn_by_its_first_image_is_drawn_once(tmp_path, monkeypatch):
    drawn = []
    original = FractalDataset._drawn
    monkeypatch.setattr(FractalDataset, "_drawn", lambda self: drawn.append(1) or original(self))
    monkeypatch.setattr(resume, "_RUN", 1)
    hash_images(load_dataset("fractals:test_images_per_class=2", "test", cache_dir=tmp_path))
    assert drawn == [1]


def test_rows_of_a_table_and_watermarked_images_are_known_by_their_stored_bytes(folder, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    images = load_dataset(folder, "test")
    rows = {"image": [{"bytes": images.encoded(i), "path": None} for i in range(10)], "label": images.labels.tolist()}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["c0", "c1"])})
    (tmp_path / "table").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "table" / "test.parquet")
    monkeypatch.setattr(resume, "_RUN", 1)
    table = load_dataset(tmp_path / "table", "test")
    assert hash_images(table) == hash_images(images)
    monkeypatch.setitem(sys.modules, "imagenet_w", SimpleNamespace())
    assert hash_images(WatermarkedImages(images)) == hash_images(images)


def test_values_of_earlier_versions_are_of_the_same_measurement(tmp_path):
    ResumableFolder(tmp_path / "a", {"data": "old", "seed": 1})
    ResumableFolder(tmp_path / "a", {"data": "new", "seed": 1}, {"data": "old"})
    for ours, earlier in (({"data": "new", "seed": 1}, {"data": None}), ({"data": "new", "seed": 2}, {"data": "old"})):
        with pytest.raises(ValueError, match="another measurement"):
            ResumableFolder(tmp_path / "a", ours, earlier)
