"""Folders of images: which files, which classes, which split."""

import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.image_folder import (
    NameTable,
    draw_evenly,
    draw_stratified_test_mask,
    load_image_folder,
)


def write(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (number, 1, 2)).save(root / name)


def class_folders(root: Path, **counts: int) -> None:
    write(root, *(f"{name}/{number:03d}.png" for name, count in counts.items() for number in range(count)))


def test_train_and_val_folders(tmp_path: Path) -> None:
    write(tmp_path, "train/dog/b.png", "train/cat/x/a.JPG", "train/dog/a.png", "val/dog/9.png", "val/cat/8.png")
    train, test = load_image_folder(tmp_path), load_image_folder(tmp_path, "test")
    assert [train.name(k) for k in range(3)] == ["cat/x/a.JPG", "dog/a.png", "dog/b.png"]
    assert train.labels.tolist() == [0, 1, 1]
    assert (train.class_names, test.class_names) == (["cat", "dog"], ["cat", "dog"])
    assert test.labels.tolist() == [0, 1]
    assert train[2].image.getpixel((0, 0)) == (0, 1, 2)
    assert "val/" in test.description.split_rule
    assert test.description.num_images == 2


@pytest.mark.parametrize(
    "names",
    [
        ("train/dog/b.png", "train/cat/a.png", "val/dog/9.png", "val/cat/8.png"),
        tuple(f"train/{kind}/{number}.png" for kind in ("dog", "cat") for number in range(5)),
        tuple(f"{kind}/{number}.png" for kind in ("dog", "cat") for number in range(5)),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_layout_is_called_by_the_folder_that_was_given(
    tmp_path: Path, names: tuple[str, ...], split: str
) -> None:
    write(tmp_path / "birds", *names)
    assert load_image_folder(tmp_path / "birds", split).description.name == "birds"


def test_split_folders_that_hold_a_folder_of_their_own_name(tmp_path: Path) -> None:
    """As several archives that were unpacked side by side."""
    write(
        tmp_path, *(f"seg_{split}/seg_{split}/{c}/{n}.png" for split in ("train", "test") for c in "ab" for n in "12")
    )
    write(tmp_path, "seg_pred/seg_pred/1.png")
    train, test = (load_image_folder(tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test), train.class_names, test.class_names) == (4, 4, ["a", "b"], ["a", "b"])
    assert all(name.startswith("seg_test/") for name in map(test.name, range(4)))


def test_splits_of_unknown_names_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, *(f"{split}/{c}/{n}.png" for split in ("fit", "check") for c in "ab" for n in "12"))
    assert load_image_folder(tmp_path).class_names == ["check", "fit"]
    assert "check, fit are read as classes, and all hold folders of the same names (a, b): if they" in caplog.text


def test_labels_of_the_test_folder_follow_the_classes_of_train(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "test/c/2.png", "test/b/2.png")
    test = load_image_folder(tmp_path, "test")
    assert test.labels.tolist() == [1, 2]
    assert test.class_names == ["a", "b", "c"]
    write(tmp_path, "test/zebra/1.png", "test/aardvark/1.png")
    train, test = load_image_folder(tmp_path), load_image_folder(tmp_path, "test")
    assert train.class_names == test.class_names == ["a", "aardvark", "b", "c", "zebra"]
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 2, 3], [1, 2, 3, 4])
    shutil.rmtree(tmp_path / "test" / "b")
    shutil.rmtree(tmp_path / "test" / "c")
    with pytest.raises(ValueError, match=r"none of its 2 classes .*\(aardvark, zebra\)"):
        load_image_folder(tmp_path, "test")
    assert len(load_image_folder(tmp_path)) == 3


def test_a_test_folder_without_labels_gives_way_to_val(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png", "validation/a/1.png")
    test = load_image_folder(tmp_path, "test")
    assert [test.name(k) for k in range(len(test))] == ["a/1.png"]
    assert "test/ unused" in test.description.split_rule


def test_class_folders_are_split_in_fixed_shares(tmp_path: Path) -> None:
    class_folders(tmp_path, a=10, b=25, c=1, d=2)
    train, test = load_image_folder(tmp_path, "train", seed=3), load_image_folder(tmp_path, "test", seed=3)
    assert np.bincount(test.labels, minlength=4).tolist() == [2, 5, 0, 1]
    assert np.bincount(train.labels, minlength=4).tolist() == [8, 20, 1, 1]
    names = [dataset.name(k) for dataset in (train, test) for k in range(len(dataset))]
    assert len(set(names)) == 38
    assert "seed 3" in test.description.split_rule
    assert "8 of 38" in test.description.split_rule
    again = load_image_folder(tmp_path, "test", seed=3)
    assert again.description == test.description
    assert load_image_folder(tmp_path, "test", seed=4).description.fingerprint != test.description.fingerprint


def test_one_more_file_moves_at_most_one_other() -> None:
    names = [f"a/{number}.png" for number in range(1000)]
    before = draw_stratified_test_mask(names, [0] * 1000, seed=0)
    after = draw_stratified_test_mask([*names, "a/new.png"], [0] * 1001, seed=0)
    assert before.sum() == 200
    assert (before != after[:1000]).sum() <= 1


def test_a_lone_train_folder_is_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", a=5, b=5)
    assert len(load_image_folder(tmp_path, "train")) == 8
    assert len(load_image_folder(tmp_path, "test")) == 2


def test_images_without_classes_are_for_training_only(tmp_path: Path) -> None:
    write(tmp_path, "1.png", "2.png")
    train = load_image_folder(tmp_path)
    assert train.labels.tolist() == [-1, -1]
    assert train.num_classes == 0
    with pytest.raises(ValueError, match="no labeled test split"):
        load_image_folder(tmp_path, "test")
    with pytest.raises(ValueError, match="needs a class"):
        train.require_labels("k-NN evaluation")


def test_only_test_folders(tmp_path: Path) -> None:
    write(tmp_path, "val/a/1.png", "val/b/1.png")
    assert load_image_folder(tmp_path, "test").labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="no train/"):
        load_image_folder(tmp_path, "train")


def test_strays_and_empty_classes_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class_folders(tmp_path, a=5, b=5)
    write(tmp_path, "stray.png")
    (tmp_path / "hollow").mkdir()
    with caplog.at_level(logging.WARNING):
        assert load_image_folder(tmp_path).class_names == ["a", "b"]
    assert "1 images lie outside" in caplog.text
    assert "hollow" in caplog.text


def test_a_folder_that_moves_keeps_its_fingerprint(tmp_path: Path) -> None:
    class_folders(tmp_path / "here", a=5, b=5)
    before = load_image_folder(tmp_path / "here").description.fingerprint
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert load_image_folder(tmp_path / "there").description.fingerprint == before
    write(tmp_path / "there", "a/new.png")
    assert load_image_folder(tmp_path / "there").description.fingerprint != before


def test_clear_refusals(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="no image was found"):
        load_image_folder(tmp_path)
    with pytest.raises(ValueError, match="split 'dev'"):
        load_image_folder(tmp_path, "dev")


def test_a_name_table_is_a_list_of_strings() -> None:
    names = ["", "a", "Käfer/Bild 1.jpg", "\udcff.png", "", "z" * 300]
    table = NameTable(names)
    assert list(table) == names
    assert len(table) == 6
    assert table[-1] == names[-1]
    assert list(pickle.loads(pickle.dumps(table))) == names
    with pytest.raises(IndexError):
        table[6]
    assert len(NameTable([])) == 0


def test_all_images_at_any_depth_without_classes(tmp_path):
    for name in ("a.png", "train/x/b.png", "test/y/z/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    images = load_image_folder(tmp_path, "all")
    assert list(images.names) == ["a.png", "test/y/z/c.jpg", "train/x/b.png"]
    assert (images.num_classes, images.labels.tolist()) == (0, [-1] * 3)
    assert (images.description.split, images.description.split_rule) == ("all", "all images at any depth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image was found"):
        load_image_folder(tmp_path / "empty", "all")


def test_pretraining_takes_what_lies_in_no_test_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(
        tmp_path, *(f"train/{kind}/{number}.png" for kind in "ab" for number in range(3)), "val/a/1.png", "val/b/1.png"
    )
    train = load_image_folder(tmp_path)
    # Nothing more is there, so a run goes on with the images that it has.
    assert load_image_folder(tmp_path, "pretraining").description == train.description
    write(tmp_path, "train/loose.png", "unlabeled/x/1.png", "unlabeled/2.png", "top.png", "masks/1.png")
    images = load_image_folder(tmp_path, "pretraining")
    assert list(images.names) == [
        "top.png",
        *(f"train/{kind}/{number}.png" for kind in "ab" for number in range(3)),
        *("train/loose.png", "unlabeled/2.png", "unlabeled/x/1.png"),
    ]
    assert images.labels.tolist() == [-1, 0, 0, 0, 1, 1, 1, -1, -1, -1]
    assert (len(images), images.num_found) == (10, 13)
    assert images.description.split_rule == "all images of train/, unlabeled/ and beside them; not those of val/"
    assert "masks: 1 images lie in no split folder and are left out" in caplog.text


def test_pretraining_takes_all_of_a_folder_without_splits(tmp_path: Path) -> None:
    class_folders(tmp_path, a=10, b=5, c=1)
    write(tmp_path, "loose.png")
    images = load_image_folder(tmp_path, "pretraining")
    assert (len(images), images.num_found, images.description.split) == (17, 17, "pretraining")
    assert np.bincount(images.labels + 1).tolist() == [1, 10, 5, 1]


def test_unlabeled_images_beside_classes_are_for_pretraining(tmp_path: Path) -> None:
    class_folders(tmp_path, a=5, b=5, unlabeled=7)
    train, test = load_image_folder(tmp_path), load_image_folder(tmp_path, "test")
    assert (train.class_names, len(train), len(test)) == (["a", "b"], 8, 2)
    images = load_image_folder(tmp_path, "pretraining")
    assert images.labels.tolist() == [0] * 5 + [1] * 5 + [-1] * 7


def test_one_image_a_class_gives_no_test_split(tmp_path: Path) -> None:
    class_folders(tmp_path, a=1, b=1, c=1)
    assert len(load_image_folder(tmp_path)) == 3
    with pytest.raises(ValueError, match="none of its 3 classes has a second image"):
        load_image_folder(tmp_path, "test")


def test_any_number_of_images_is_drawn_evenly() -> None:
    names, labels = [f"{k}.png" for k in range(100)], [0] * 80 + [1] * 15 + [-1] * 5
    for count in (1, 20, 99):
        mask = draw_evenly(names, labels, 0, count)
        assert mask.sum() == count
        shares = [mask[np.array(labels) == label].mean() for label in (0, 1, -1)]
        assert max(shares) - min(shares) < 0.21
    assert set(np.flatnonzero(draw_evenly(names, labels, 0, 20))) < set(
        np.flatnonzero(draw_evenly(names, labels, 0, 50))
    )
    assert (draw_evenly(names, labels, 0, 20) != draw_evenly(names, labels, 1, 20)).any()


# What version 0.1 recorded of these trees with seed 3.
def test_names_of_any_bytes(tmp_path: Path) -> None:
    for name in (b"caf\xe9/1 \xff.png", b"caf\xe9/2 'x\".png", b"b/" + b"z" * 250 + b".png", "ü/1.png".encode()):
        file = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as stream:
            Image.new("RGB", (2, 2)).save(stream, "PNG")
    images = load_image_folder(tmp_path, "pretraining")
    assert images.class_names == ["b", "caf\\xe9", "ü"]
    assert [images.name(k) for k in (1, 2)] == ["caf\\xe9/1 \\xff.png", "caf\\xe9/2 'x\".png"]
    assert all(images.load_image(k).size == (2, 2) for k in range(4))
    " ".join([*images.class_names, *(images.name(k) for k in range(4)), images.description.source]).encode()
