import pickle
from pathlib import Path

import numpy as np
import pytest
from data_trees.original import write_original

from synco_hub.data.original.cifar import FILES, read_cifar


def test_pixels_are_stored_plane_by_plane(tmp_path: Path):
    write_original("cifar10", tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    content = {"data": pixels.transpose(0, 3, 1, 2).reshape(1, -1), "labels": [7], "filenames": ["horse.png"]}
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(content))
    images = read_cifar("cifar10", tmp_path, "test")
    assert (np.asarray(images.load_image(0)) == pixels[0]).all()
    assert (images.name(0), images.labels.tolist(), images.class_names[7]) == ("horse.png", [7], "horse")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((1, 3072)), "labels": [1]}, "data is no array of 3072 bytes"),
        ({"data": np.zeros((1, 99), dtype=np.uint8), "labels": [1]}, "data is no array of 3072 bytes"),
        ({"data": np.zeros((1, 3072), dtype=np.uint8), "labels": [1, 2]}, "not one whole number an image"),
        ({"data": np.zeros((1, 3072), dtype=np.uint8), "labels": ["a"]}, "not one whole number an image"),
        ({"data": np.zeros((1, 3072), dtype=np.uint8), "labels": [10]}, "check the label column"),
    ],
)
def test_batches_of_another_kind(content: dict[str, object], message: str, tmp_path: Path):
    write_original("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_cifar("cifar10", tmp_path, "test")


def test_a_hundred_classes_take_the_fine_labels(tmp_path: Path):
    write_original("cifar100", tmp_path)
    assert FILES["cifar100"].label_key == "fine_labels"
    assert read_cifar("cifar100", tmp_path, "train").labels.max() == 99
    (tmp_path / "cifar-100-python/meta").write_bytes(pickle.dumps({"names": []}))
    with pytest.raises(ValueError, match="no list fine_label_names"):
        read_cifar("cifar100", tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"data": np.zeros(99)})[:-40]])
def test_damaged_batches(content: bytes, tmp_path: Path):
    write_original("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(content)
    with pytest.raises(ValueError, match=r"test_batch is refused.*Unpack the original archive again\."):
        read_cifar("cifar10", tmp_path, "test")


def test_a_batch_that_is_no_dict(tmp_path: Path):
    write_original("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="holds list, not a dict"):
        read_cifar("cifar10", tmp_path, "test")
