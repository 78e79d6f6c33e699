from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.mask_folders import has_masks, read_mask_folder


def write(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size[::-1], value, dtype=np.uint8)).save(path)


def _tree(root: Path, images: str, masks: str, splits: dict[str, list[str]]) -> Path:
    for split, names in splits.items():
        for value, name in enumerate(names):
            write(root / images.format(split) / f"{name}.jpg")
            write(root / masks.format(split) / f"{name}.png", value)
    return root


@pytest.mark.parametrize(
    ("images", "masks", "splits"),
    [
        ("images/{}", "masks/{}", ("train", "test")),
        ("images/{}", "annotations/{}", ("training", "validation")),
        ("{}/images", "{}/masks", ("train", "val")),
        ("{}/image", "{}/labels", ("Train", "Valid")),
    ],
)
def test_splits_are_found_in_every_layout(images, masks, splits, tmp_path):
    root = _tree(tmp_path, images, masks, {splits[0]: ["a", "b/c"], splits[1]: ["d"]})
    assert has_masks(root)
    train, test = read_mask_folder(root, "things", seed=0)
    assert (train.names, test.names) == (("a", "b/c"), ("d",))
    assert (train.split, test.split) == ("train", "test")
    assert train.read(1)[1].tolist() == [[1] * 6] * 4


def test_test_images_without_masks_leave_the_validation_images(tmp_path):
    root = _tree(tmp_path, "images/{}", "masks/{}", {"train": ["a"], "val": ["b"]})
    write(root / "images" / "test" / "c.jpg")
    assert read_mask_folder(root, "things", seed=0)[1].names == ("b",)


def test_without_splits_a_fifth_is_drawn_for_testing(tmp_path):
    root = _tree(tmp_path, "images", "masks", {"": [str(number) for number in range(10)]})
    train, test = read_mask_folder(root, "things", seed=3)
    assert (len(train), len(test)) == (8, 2)
    assert sorted((*train.names, *test.names)) == sorted(map(str, range(10)))
    assert "drawn by seed 3" in test.split_rule
    assert read_mask_folder(root, "things", seed=4)[1].names != test.names


def test_vocs_lists_say_which_image_is_of_which_split(tmp_path):
    root = _tree(tmp_path, "JPEGImages", "SegmentationClass", {"": ["a", "b", "c"]})
    write(root / "JPEGImages" / "without.jpg")  # most images of VOC2012 have no mask
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nc\n")
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    (lists / "val.txt").write_text("b\n")
    (lists / "test.txt").write_text("d\n")
    train, test = read_mask_folder(root, "voc2012", seed=0)
    assert (train.names, test.names) == (("a", "c"), ("b",))
    (lists / "val.txt").write_text("b\ngone\n")
    with pytest.raises(FileNotFoundError, match="gone is listed, but has no image in"):
        read_mask_folder(root, "voc2012", seed=0)


def test_a_mask_that_lacks_or_is_of_another_size_is_named_before_anything_is_measured(tmp_path):
    root = _tree(tmp_path, "images/{}", "masks/{}", {"train": ["a", "b"], "test": ["c"]})
    write(root / "masks" / "train" / "b.png", size=(5, 5))
    with pytest.raises(ValueError, match="the mask of b is 5x5, its image 6x4"):
        read_mask_folder(root, "things", seed=0)
    (root / "masks" / "train" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images in .* have no mask in .* \(first: b\)"):
        read_mask_folder(root, "things", seed=0)


def test_a_folder_without_both_splits_says_how_to_lay_it_out(tmp_path):
    assert not has_masks(tmp_path)
    assert not has_masks(tmp_path / "nothing")
    root = _tree(tmp_path, "{}/images", "{}/masks", {"train": ["a"]})
    with pytest.raises(FileNotFoundError, match="lay them out as images/train"):
        read_mask_folder(root, "things", seed=0)


def test_hidden_files_are_no_images_and_links_are_followed(tmp_path):
    root = _tree(tmp_path / "data", "images/{}", "masks/{}", {"train": ["a"], "test": ["b"]})
    for name in ("images/train/._a.jpg", "masks/train/._a.png", "images/test/.ipynb_checkpoints/b-checkpoint.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no picture")
    write(tmp_path / "pictures" / "c.jpg")
    write(tmp_path / "numbers" / "c.png")
    (root / "images" / "train" / "more").symlink_to(tmp_path / "pictures")
    (root / "masks" / "train" / "more").symlink_to(tmp_path / "numbers")
    train, test = read_mask_folder(root, "things", seed=0)
    assert (train.names, test.names) == (("a", "more/c"), ("b",))


def test_images_of_every_extension_are_read_and_other_files_named(tmp_path, caplog):
    root = _tree(tmp_path, "images/{}", "masks/{}", {"train": ["a"], "test": ["b"]})
    write(root / "images" / "train" / "c.jp2")
    (root / "images" / "train" / "d.dng").write_bytes(b"raw")
    write(root / "masks" / "train" / "c.png", 1)
    train, _ = read_mask_folder(root, "things", seed=0)
    assert "1 file is not read: 1 .dng (save as PNG or JPEG)" in caplog.text
    assert train.names == ("a", "c")
    assert train.read(1)[1].max() == 1


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_two_files_of_one_name_are_refused(folder, tmp_path):
    root = _tree(tmp_path, "images/{}", "masks/{}", {"train": ["a"], "test": ["b"]})
    write(root / folder / "train" / "a.bmp")
    with pytest.raises(ValueError, match="differ in their extension alone"):
        read_mask_folder(root, "things", seed=0)
