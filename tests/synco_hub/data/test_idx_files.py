"""Idx files of MNIST's family: what is read, and one clear line for whatever is none."""

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from data_trees.original import idx, put

from synco_hub.data.idx_files import find_idx_files, read_idx, read_idx_folder
from synco_hub.data.loading import load_dataset
from synco_hub.settings import DatasetChoice

RNG = np.random.default_rng(3)
PIXELS = {
    "train": RNG.integers(0, 256, (7, 5, 4), dtype=np.uint8),
    "test": RNG.integers(0, 256, (3, 5, 4), dtype=np.uint8),
}
LABELS = {"train": np.array([3, 1, 1, 0, 9, 3, 4], dtype=np.uint8), "test": np.array([9, 7, 1], dtype=np.uint8)}
MNIST = {"train": "train", "test": "t10k"}


def write(folder: Path, begin: str = "", splits=MNIST, ending: str = "", pixels=PIXELS, labels=LABELS) -> Path:
    for split, spelled in splits.items():
        for kind, array in (("images-idx3", pixels[split]), ("labels-idx1", labels[split])):
            content = idx(array)
            put(folder / f"{begin}{spelled}-{kind}-ubyte{ending}", gzip.compress(content) if ending else content)
    return folder


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("below", ["", "raw"])
def test_pictures_labels_and_names_are_those_of_the_files(tmp_path, ending, below):
    write(tmp_path / below, ending=ending)
    for split in ("train", "test"):
        images = load_dataset(str(tmp_path), split)
        # The classes are the labels of both splits.
        assert images.class_names == ["0", "1", "3", "4", "7", "9"]
        assert [int(images.class_names[label]) for label in images.labels] == LABELS[split].tolist()
        for index, grey in enumerate(PIXELS[split]):
            assert images.load_image(index).mode == "RGB"
            assert np.array_equal(images.load_pixels(index), np.repeat(grey[..., None], 3, axis=2))
        assert images.name(1) == f"{MNIST[split]}-images-idx3-ubyte/000001"
        assert (images.description.num_images, images.description.name) == (len(LABELS[split]), tmp_path.name)


def test_training_learns_from_the_training_split_alone(tmp_path):
    assert len(load_dataset(str(write(tmp_path)), "pretraining")) == 7


def test_the_fingerprint_is_of_pixels_and_labels_and_not_of_the_place_or_packing(tmp_path):
    first = read_idx_folder(write(tmp_path / "a"), "test").description.fingerprint
    assert read_idx_folder(write(tmp_path / "b", ending=".gz"), "test").description.fingerprint == first
    other = {**PIXELS, "test": PIXELS["test"].copy()}
    other["test"][0, 0, 0] ^= 1
    assert read_idx_folder(write(tmp_path / "c", pixels=other), "test").description.fingerprint != first


def test_of_several_sets_one_is_named_and_its_characters_are_read(tmp_path):
    labels = {split: values + 1 for split, values in LABELS.items()}
    splits = {"train": "train", "test": "test"}
    for begin in ("emnist-letters-", "emnist-byclass-"):
        write(tmp_path, begin, splits, ".gz", labels=labels)
    put(tmp_path / "emnist-letters-mapping.txt", "".join(f"{n} {64 + n} {96 + n}\n" for n in range(1, 27)))
    with pytest.raises(
        ValueError, match=r"several sets of idx files .emnist-byclass, emnist-letters.: name one with --c"
    ):
        load_dataset(str(tmp_path), "train")
    for name in ("letters", "emnist-letters"):
        images = load_dataset(DatasetChoice(str(tmp_path), config=name), "test")
        assert [images.class_names[label] for label in images.labels] == ["Jj", "Hh", "Bb"]
    assert "10" in load_dataset(DatasetChoice(str(tmp_path), config="byclass"), "test").class_names
    with pytest.raises(ValueError, match=r"no set 'digits' of idx files .*name one with --config"):
        load_dataset(DatasetChoice(str(tmp_path), config="digits"), "test")
    with pytest.raises(ValueError, match="--label-column label says nothing"):
        load_dataset(DatasetChoice(str(tmp_path), label_column="label"), "test")


def test_an_unpacked_file_goes_before_the_packed_one(tmp_path):
    write(tmp_path)
    put(tmp_path / "train-images-idx3-ubyte.gz", b"damaged")
    assert len(load_dataset(str(tmp_path), "train")) == 7


def test_spelled_with_a_dot_as_many_copies_are(tmp_path):
    for file in list(write(tmp_path).iterdir()):
        file.rename(tmp_path / file.name.replace("-idx", ".idx"))
    assert len(find_idx_files(tmp_path)[""]) == 4
    assert len(load_dataset(str(tmp_path), "test")) == 3


def test_a_folder_of_pictures_stays_one_though_idx_files_lie_in_it(tmp_path):
    from PIL import Image

    write(tmp_path)
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / name / "1.png")
    assert load_dataset(str(tmp_path), "train").class_names == ["a", "b"]


HEAD = struct.pack(">4B3I", 0, 0, 8, 3, 2, 5, 4)
# Without the time of packing, which would be another in every process that collects the tests.
PACKED_HEAD, PACKED = gzip.compress(HEAD, mtime=0), gzip.compress(HEAD + bytes(40), mtime=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is no idx file: get it again"),
        (b"<html>not found</html>", "it is no idx file"),
        (PACKED_HEAD, r"it is no idx file \(it is packed by gzip: name it .gz\)"),
        (HEAD[:9], "it ends within its head: get it again"),
        (HEAD + bytes(39), "its head says 2 × 5 × 4 pictures, and it holds less than that: get it again"),
        (HEAD + bytes(41), "its head says 2 × 5 × 4 pictures, and it holds more than that"),
        (struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3) + bytes(50), "its head says .* holds less"),
        (struct.pack(">4B3I", 0, 0, 0x0D, 3, 2, 5, 4) + bytes(160), "it holds float32 in 3 dimensions, but pictures"),
        (struct.pack(">4B4I", 0, 0, 8, 4, 2, 5, 4, 1) + bytes(40), "it holds bytes in 4 dimensions, but pictures are"),
        (idx(LABELS["train"]), "it holds bytes in 1 dimensions, but pictures are bytes in 3"),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_what_is_no_file_of_pictures_is_one_line(tmp_path, content, said, ending):
    file = tmp_path / f"train-images-idx3-ubyte{ending}"
    file.write_bytes(gzip.compress(content) if ending else content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: {said}") as raised:
        read_idx(file, 3)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"no gzip", PACKED[:-9], PACKED[:-8] + bytes(8)], ids=["no gzip", "cut", "another sum"]
)
def test_a_damaged_packed_file_is_one_line(tmp_path, content):
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"it cannot be read .*get it again") as raised:
        read_idx(file, 3)
    assert "\n" not in str(raised.value)


def test_files_that_do_not_belong_together_are_one_line(tmp_path):
    write(tmp_path)
    put(tmp_path / "t10k-labels-idx1-ubyte", idx(LABELS["train"]))
    with pytest.raises(
        ValueError, match="t10k-labels-idx1-ubyte: 7 labels, where t10k-images-idx3-ubyte has 3 pictures"
    ):
        load_dataset(str(tmp_path), "test")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=r"no labels of the test split beside .*put all four files there"):
        load_dataset(str(tmp_path), "test")
    nothing = {split: values[:0] for split, values in PIXELS.items()}
    write(tmp_path, pixels=nothing, labels={split: values[:0] for split, values in LABELS.items()})
    with pytest.raises(ValueError, match="it holds no pictures"):
        load_dataset(str(tmp_path), "train")


def test_labels_beyond_the_classes_of_the_catalog_are_of_another_set(tmp_path):
    write(tmp_path, labels={split: values + 8 for split, values in LABELS.items()})
    with pytest.raises(ValueError, match="label 17, where there are 10 classes: the files are of another set"):
        load_dataset(DatasetChoice("fashion-mnist", data_dir=str(tmp_path)), "train")
