"""What stands in a table of embeddings equals what the model gives, image by image, whatever stopped the work."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import synco_hub
from synco_hub import embedding
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.hub.loading import load_model
from synco_hub.models import SynCoConfig, SynCoModel, image_processor

FRACTALS = "fractals:num_classes=4,train_images_per_class=20,test_images_per_class=5,image_size=32"
QUIET = {"progress": False, "num_workers": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "nano"
    torch.manual_seed(0)
    SynCoModel(SynCoConfig("vit-nano")).save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def pictures(tmp_path):
    """Two splits of two classes, of which one is missing in test, a picture in no split, one that cannot be read."""
    generator = np.random.default_rng(0)
    root = tmp_path / "pictures"
    for place in ("train/cat/a.png", "train/cat/b.png", "train/dog/é c.png", "test/dog/a.png", "test/dog/b.png"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / place)
    (root / "extra").mkdir()
    Image.fromarray(generator.integers(0, 256, (33, 60, 3), dtype=np.uint8)).save(root / "extra" / "free.png")
    return root


def feature_of(model, file, what="cls"):
    """By the model and its processor alone."""
    network, processor = load_model(model)
    transform = EvaluatedModel(network, processor, "").transform
    with torch.no_grad():
        states = network(transform(Image.open(file).convert("RGB"))[None]).last_hidden_state[0]
    return {"cls": states[0], "mean": states[1:].mean(0), "patches": states[1:]}[what].numpy()


@pytest.mark.parametrize("what", ["cls", "mean", "patches"])
def test_every_image_has_its_own_vector_and_name(what, model, pictures, tmp_path):
    output = synco_hub.embed(model, pictures, tmp_path / "out.parquet", what=what, batch_size=2, **QUIET)
    found = synco_hub.Embeddings.read(output)
    splits = dict(zip(found.file_names, found.splits, strict=True))
    assert {name.split("/")[0]: split for name, split in splits.items()} == {
        "train": "train",
        "test": "test",
        "extra": "",
    }
    assert len(splits) == 6
    assert found.class_names == ["cat", "dog"]
    assert {name.split("/")[1]: label for name, label in zip(found.file_names, found.labels, strict=True)} == {
        "cat": 0,
        "dog": 1,
        "free.png": -1,
    }
    for name, vector in zip(found.file_names, found.vectors, strict=True):
        np.testing.assert_allclose(vector, feature_of(model, pictures / name, what), atol=2e-6)
    assert found.facts["model"]["name"] == model
    assert not list(tmp_path.glob("*.unfinished"))


def test_others_read_the_table_with_names_of_classes(model, pictures, tmp_path):
    output = synco_hub.embed(model, pictures, tmp_path / "out.parquet", **QUIET)
    vectors = synco_hub.Embeddings.read(output).vectors
    table = datasets.load_dataset("parquet", data_files=str(output), cache_dir=str(tmp_path / "cache"))["train"]
    assert table.features["label"].names == ["cat", "dog"]
    np.testing.assert_array_equal(np.array(table["embedding"], dtype=np.float32), vectors)
    frame = pandas.read_parquet(output)
    assert list(frame.columns) == ["file_name", "split", "label", "embedding"]
    np.testing.assert_array_equal(np.stack(frame["embedding"]), vectors)


def test_files_without_classes_in_a_folder_and_as_an_array(model, tmp_path):
    generator = np.random.default_rng(1)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(5):
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(flat / f"{number}.png")
    folder = synco_hub.embed(model, flat, tmp_path / "table", **QUIET)
    found = synco_hub.Embeddings.read(folder)
    assert found.file_names == [f"{number}.png" for number in range(5)]
    assert found.labels is None
    array = synco_hub.embed(model, flat, tmp_path / "array.npy", dtype="float16", **QUIET)
    values = np.load(array)
    assert values.dtype == np.float16
    np.testing.assert_allclose(values.astype(np.float32), found.vectors, rtol=1e-3)
    assert (tmp_path / "array.csv").read_text().splitlines()[:2] == ["file_name,split", "0.png,train"]


def test_processes_and_batch_sizes_change_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_PART", 32)
    one = synco_hub.Embeddings.read(synco_hub.embed(model, FRACTALS, tmp_path / "a.parquet", batch_size=7, **QUIET))
    two = synco_hub.embed(model, FRACTALS, tmp_path / "b.parquet", batch_size=64, num_processes=2, **QUIET)
    two = synco_hub.Embeddings.read(two)
    assert one.file_names == two.file_names
    assert one.splits.count("train") == 80
    np.testing.assert_allclose(one.vectors, two.vectors, atol=1e-5)


KILLED = """
import os, signal, sys
from synco_hub import embedding
embedding._PART = 16
write = embedding._write_part
def written(work, part, *rest):
    write(work, part, *rest)
    if part[0] == 32:
        os.kill(os.getpid(), signal.SIGKILL)
embedding._write_part = written
embedding.embed(sys.argv[1], sys.argv[2], sys.argv[3], num_workers=0, progress=False)
"""


def test_a_killed_command_goes_on_and_computes_no_image_twice(model, tmp_path, monkeypatch):
    data, output = (
        "fractals:num_classes=4,train_images_per_class=20,test_images_per_class=5,image_size=32",
        tmp_path / "a.parquet",
    )
    command = [sys.executable, "-c", KILLED, model, data, str(output)]
    assert subprocess.run(command, env=dict(os.environ)).returncode == -signal.SIGKILL
    assert not output.exists()
    monkeypatch.setattr(embedding, "_PART", 16)
    computed = []
    compute = embedding.read_out

    def counted(network, pixels, *rest):
        computed.append(len(pixels))
        return compute(network, pixels, *rest)

    monkeypatch.setattr(embedding, "read_out", counted)
    synco_hub.embed(model, data, output, **QUIET)
    assert sum(computed) == 100 - 48
    whole = synco_hub.embed(model, data, tmp_path / "whole.parquet", **QUIET)
    assert parquet.read_table(output).equals(parquet.read_table(whole))
    torch.manual_seed(1)
    other = tmp_path / "other"
    SynCoModel(SynCoConfig("vit-nano")).save_pretrained(other)
    image_processor(32).save_pretrained(other)
    unfinished = tmp_path / "b.parquet.unfinished"
    unfinished.mkdir()
    (unfinished / "measurement.json").write_text(json.dumps({"model": {"weights": "others"}}))
    with pytest.raises(ValueError, match="holds parts of another measurement"):
        synco_hub.embed(str(other), data, tmp_path / "b.parquet", **QUIET)


def test_an_unreadable_image_is_named_and_has_no_row(model, pictures, tmp_path, caplog):
    (pictures / "train" / "cat" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"bad\.png"):
        synco_hub.embed(model, pictures, tmp_path / "out.parquet", **QUIET)
    output = synco_hub.embed(model, pictures, tmp_path / "other.parquet", max_bad_fraction=0.2, **QUIET)
    found = synco_hub.Embeddings.read(output)
    assert len(found.file_names) == 6
    assert found.facts["skipped_files"] == ["train/cat/bad.png"]
    for name, vector in zip(found.file_names, found.vectors, strict=True):
        np.testing.assert_allclose(vector, feature_of(model, pictures / name), atol=2e-6)


def test_bad_input_has_one_line(model, pictures, tmp_path):
    for output, words in (("out.csv", "give a file that ends in"), ("pictures", "the folder is not empty")):
        with pytest.raises(ValueError, match=words):
            synco_hub.embed(model, pictures, tmp_path / output, **QUIET)
    with pytest.raises(ValueError, match=r"what='words' is unknown: use one of feature, cls, mean, patches"):
        synco_hub.embed(model, pictures, tmp_path / "out.parquet", what="words")
    swin = tmp_path / "swin"
    SynCoModel(SynCoConfig("swin-nano")).save_pretrained(swin)
    image_processor(32).save_pretrained(swin)
    with pytest.raises(ValueError, match=r"--what cls: .* has no \[CLS\] token"):
        synco_hub.embed(str(swin), pictures, tmp_path / "out.parquet", what="cls", **QUIET)
    pandas.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    whole = Path(synco_hub.embed(model, pictures, tmp_path / "whole.parquet", **QUIET))
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-100])
    for file, words in (("foreign", "holds no embeddings"), ("cut", "is no whole parquet file")):
        with pytest.raises(ValueError, match=words):
            synco_hub.Embeddings.read(tmp_path / f"{file}.parquet")
    with pytest.raises(FileNotFoundError, match="does not exist: write it"):
        synco_hub.Embeddings.read(tmp_path / "nothing.parquet")
