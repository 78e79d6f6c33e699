"""Where splits and classes of a folder lie: the usual layouts, and one list of classes over all splits."""

import random
from pathlib import Path

import pytest

from synco_hub.data.folder_layout import printable, read_layout
from synco_hub.data.image_folder import load_image_folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def tree(above: str, train: str, test: str, below: str = "") -> list[str]:
    """Two classes with three training images and two test images each."""
    return [
        f"{above}{split}/{below}{kind}/{number}.jpg"
        for split, count in ((train, 3), (test, 2))
        for kind in ("cat", "dog")
        for number in range(count)
    ]


@pytest.mark.parametrize(
    "names",
    [
        tree("", "Train", "Test"),
        tree("", "TRAIN", "VAL"),
        tree("", "training", "validation"),
        tree("", "training", "testing"),
        tree("", "train", "valid"),
        tree("", "train", "dev"),
        tree("", "Train", "eval"),
        tree("", "train2017", "val2017"),
        tree("", "train_images", "test_images"),
        tree("", "Entraînement", "test"),
        tree("images/", "train", "val"),
        tree("Images/", "Train", "Valid"),
        tree("archive/my set/", "train", "test"),
        tree("", "train", "test", "images/"),
        tree("data/", "training", "validation", "imgs/"),
        [*tree("images/", "train", "val"), "labels/train/1.txt", "labels/val/1.txt"],
        [*tree("", "train", "val"), "test/1.jpg", "test/2.jpg"],
        [*tree("", "train", "val"), "test/test/1.jpg", "test/test/2.jpg"],
        [*tree("", "train", "val"), "test/unknown/1.jpg"],
        [f"{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(3)]
        + [f"test/{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(2)],
    ],
)
def test_the_usual_layouts_give_the_same_splits(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *names)
    for split, count in (("train", 3), ("test", 2), ("pretraining", 3)):
        images = load_image_folder(tmp_path, split)
        assert images.class_names == ["cat", "dog"]
        assert images.labels.tolist() == [0] * count + [1] * count
        assert [name.rsplit("/", 2)[-2] for name in images.names] == ["cat"] * count + ["dog"] * count
        assert all(map(Path.is_file, (images.root / name for name in images.names)))
        assert images.description.name == tmp_path.name


@pytest.mark.parametrize(
    "names",
    [
        ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"],
        ["images/cat/1.jpg", "images/cat/2.jpg", "images/dog/1.jpg", "images/dog/2.jpg", "labels.txt"],
        [
            "photos of pets/cat/1.jpg",
            "photos of pets/cat/2.jpg",
            "photos of pets/dog/1.jpg",
            "photos of pets/dog/2.jpg",
        ],
        ["Train/cat/1.jpg", "Train/cat/2.jpg", "Train/dog/1.jpg", "Train/dog/2.jpg"],
        ["train/images/cat/1.jpg", "train/images/cat/2.jpg", "train/images/dog/1.jpg", "train/images/dog/2.jpg"],
    ],
)
def test_one_folder_of_classes_is_found_and_divided(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *names)
    train, test = load_image_folder(tmp_path), load_image_folder(tmp_path, "test")
    assert train.class_names == test.class_names == ["cat", "dog"]
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [0, 1])
    assert len(load_image_folder(tmp_path, "pretraining")) == 4


@pytest.mark.parametrize("names", [["1.jpg"], ["images/1.jpg"], ["train/1.jpg"], ["train/images/1.jpg"]])
def test_images_in_no_class_have_none(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *names)
    for split in ("train", "pretraining"):
        assert (
            load_image_folder(tmp_path, split).labels.tolist(),
            load_image_folder(tmp_path, split).num_classes,
        ) == (
            [-1],
            0,
        )
    with pytest.raises(ValueError, match="no labeled test split"):
        load_image_folder(tmp_path, "test")


def test_a_train_is_a_vehicle_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, *(f"{kind}/{number}.jpg" for kind in ("bus", "car", "train") for number in range(5)))
    assert load_image_folder(tmp_path).class_names == ["bus", "car", "train"]
    assert "train/ is read as a class like the folders beside it" in caplog.text


def test_a_class_of_photos_beside_sketches_stays_one(tmp_path: Path) -> None:
    touch(tmp_path, "train/photo/1.jpg", "train/sketch/1.jpg", "test/photo/1.jpg")
    assert load_image_folder(tmp_path, "test").labels.tolist() == [0]
    assert load_image_folder(tmp_path, "test").class_names == ["photo", "sketch"]


def test_one_class_has_one_number_in_every_split_as_a_slow_loop_finds_it(tmp_path: Path) -> None:
    random.seed(3)
    for trial in range(20):
        root = tmp_path / str(trial)
        kinds = random.sample(["a", "b", "c", "10", "2", "Z", "é"], 5)
        of_split = {"train": random.sample(kinds, 3), "test": random.sample(kinds, 3)}
        touch(
            root, *(f"{split}/{kind}/{k}.jpg" for split, some in of_split.items() for kind in some for k in range(2))
        )
        if not set(of_split["train"]) & set(of_split["test"]):
            continue
        expected: list[str] = []
        for kind in sorted(kinds):
            if any((root / split / kind).is_dir() for split in of_split):
                expected.append(kind)
        for split, some in of_split.items():
            images = load_image_folder(root, split)
            assert images.class_names == expected
            for name, label in zip(images.names, images.labels, strict=True):
                assert expected[label] == name.split("/")[0]
            assert {expected[label] for label in images.labels} == set(some)


def test_what_was_found_in_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, *tree("images/", "train", "val"), "images/extra/1.jpg", "images/masks/1.png", "images/loose.jpg")
    layout = read_layout(tmp_path)
    assert layout.base == "images/"
    assert layout.splits is not None
    assert (layout.splits.unlabeled, layout.splits.others) == (("extra",), ("masks",))
    assert layout.class_of["images/masks/1.png"] is layout.class_of["images/loose.jpg"] is None
    assert layout.place("train") == tmp_path / "images" / "train"


def test_names_that_are_no_text_can_be_printed() -> None:
    assert printable("caf\udce9 \"x\" 'y'/Käfer.jpg") == "caf\\xe9 \"x\" 'y'/Käfer.jpg"
