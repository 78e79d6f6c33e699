import io
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from synco_hub.data import ImageDataset, load_dataset
from trainers import knn_data as module
from trainers.data_arguments import DataArguments
from trainers.knn_data import knn_data

datasets = pytest.importorskip("datasets")

FRACTALS = "fractals:num_classes=4,train_images_per_class=6,test_images_per_class=3"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def write(root: Path, split: str, labels: list[Any], feature: Any) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, "PNG")
    cells = [{"bytes": buffer.getvalue(), "path": None}] * len(labels)
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    table = datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features)
    table.to_parquet(root / f"{split}-0.parquet", batch_size=2)


def of_stream(root: Path, **more: Any) -> module.KnnData:
    # What is trained on is a stream, whose images cannot be asked for.
    return knn_data(DataArguments(dataset=str(root), streaming=True, **more), 32, training=None)  # type: ignore[arg-type]


def test_by_position_the_bank_is_what_is_trained_on(tmp_path):
    training: ImageDataset = load_dataset(FRACTALS, "train", image_size=32)
    knn = knn_data(DataArguments(dataset=FRACTALS), 32, training)
    assert knn.bank.images is training
    assert (len(knn.queries), knn.queries.images.description.split) == (12, "test")
    assert knn.bank.transform.image_size == 32
    few = knn_data(DataArguments(dataset=FRACTALS, knn_images=8), 32, training)
    assert [len(side) for side in (few.bank, few.queries)] == [8, 8]
    assert len(set(few.bank.images.labels.tolist())) == 4


def test_a_stream_is_bounded_unless_it_is_said_how_much(tmp_path, monkeypatch):
    write(tmp_path / "t", "train", [0, 1] * 20, datasets.ClassLabel(names=["a", "b"]))
    write(tmp_path / "t", "test", [1, 0] * 10, datasets.ClassLabel(names=["a", "b"]))
    monkeypatch.setattr(module, "STREAMED_IMAGES", 16)
    assert [len(side) for side in vars(of_stream(tmp_path / "t")).values()] == [16, 16]
    assert [len(side) for side in vars(of_stream(tmp_path / "t", knn_images=4)).values()] == [4, 4]
    other = of_stream(tmp_path / "t", knn_dataset=FRACTALS)
    assert [len(side) for side in vars(other).values()] == [16, 12]
    descriptions = other.descriptions()
    assert descriptions["bank"]["split_rule"].endswith("16 of 24 images, spread over them")
    assert descriptions["queries"]["num_images"] == 12


@pytest.mark.parametrize(
    ("feature", "train", "test", "names"),
    [
        ("string", ["n1", "n3", "n1"], ["n3", "n2"], ["n1", "n2", "n3"]),
        ("int64", [0, 11, 2], [3, 1], [str(number) for number in range(12)]),
    ],
)
def test_classes_that_only_rows_tell_are_numbered_alike(feature, train, test, names, tmp_path, caplog):
    write(tmp_path / "t", "train", train, datasets.Value(feature))
    write(tmp_path / "t", "test", test, datasets.Value(feature))
    knn = of_stream(tmp_path / "t")
    bank, queries = knn.bank.images, knn.queries.images
    assert bank.class_names == queries.class_names == names
    for images, expected in ((bank, train), (queries, test)):
        assert [images.class_names[label] for label in images.labels] == [str(value) for value in expected]
    assert "of the 2 classes of the test images have no image among the 3 training images" in caplog.text


def test_what_cannot_be_measured_is_refused_before_the_training(tmp_path):
    training = load_dataset(FRACTALS, "train", image_size=32)
    names = ["a", "b"]
    write(tmp_path / "only", "train", [0, 1], datasets.ClassLabel(names=names))
    with pytest.raises(ValueError, match=r"no test split among train.*--knn-dataset"):
        of_stream(tmp_path / "only")
    write(tmp_path / "hidden", "train", [0, 1], datasets.ClassLabel(names=names))
    write(tmp_path / "hidden", "test", [-1, -1], datasets.ClassLabel(names=names))
    with pytest.raises(ValueError, match="--knn-every-epochs needs a class for every image"):
        of_stream(tmp_path / "hidden")
    other = load_dataset("fractals:num_classes=3,train_images_per_class=4", "train", image_size=32)
    with pytest.raises(ValueError, match=r"have 3 classes, the test images 4, and not the same.*--knn-dataset"):
        knn_data(DataArguments(dataset=FRACTALS), 32, other)
    alone = load_dataset("fractals:num_classes=1,train_images_per_class=4", "train", image_size=32)
    with pytest.raises(ValueError, match=r"are of one class, .*--knn-dataset"):
        knn_data(DataArguments(dataset="fractals:num_classes=1"), 32, alone)
    with pytest.raises(ValueError, match=r"imagenet-a has no split 'train'"):
        knn_data(DataArguments(dataset=FRACTALS, knn_dataset="imagenet-a", knn_data_dir=str(tmp_path)), 32, training)


def test_very_many_images_are_said(monkeypatch, caplog):
    training = load_dataset(FRACTALS, "train", image_size=32)
    monkeypatch.setattr(module, "MANY_IMAGES", 35)
    with caplog.at_level(logging.WARNING):
        knn_data(DataArguments(dataset=FRACTALS), 32, training)
    assert "features of 36 images at every measurement" in caplog.text
