from pathlib import Path

import pytest
from PIL import Image

from synco_hub.data.catalog.folder import load_catalog_folder
from synco_hub.data.catalog.rows import catalog_row
from synco_hub.data.class_lists import class_list


def images(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / name)
    return root


def test_imagenet_labels_are_those_of_all_thousand_classes(tmp_path: Path):
    wnids = class_list("imagenet_1k")
    root = images(tmp_path, f"train/{wnids[7]}/a.JPEG", f"train/{wnids[993]}/b.JPEG", f"val/{wnids[993]}/c.JPEG")
    train = load_catalog_folder(catalog_row("imagenet-1k"), root, "train")
    assert (train.labels.tolist(), train.num_classes) == ([7, 993], 1000)
    assert load_catalog_folder(catalog_row("imagenet-1k"), root, "test").labels.tolist() == [993]


def test_imagenet_100_is_taken_out_of_imagenet(tmp_path: Path):
    hundred, thousand = class_list("imagenet_100"), class_list("imagenet_1k")
    others = [wnid for wnid in thousand if wnid not in hundred][:3]
    folders = [*reversed(hundred), *others]
    root = images(tmp_path, *(f"{split}/{wnid}/{split}.png" for split in ("train", "val") for wnid in folders))
    for split in ("train", "test"):
        found = load_catalog_folder(catalog_row("imagenet-100"), root, split)
        assert found.class_names == list(hundred)
        assert sorted(found.labels.tolist()) == list(range(100))
        for index in range(len(found)):
            assert found.name(index).split("/")[0] == hundred[found.labels[index]]
        assert "100 of 103 classes" in found.description.split_rule


def test_version_2_reads_folders_as_numbers(tmp_path: Path):
    inside = "imagenetv2-top-images-format-val"
    root = images(tmp_path, *(f"{inside}/{number}/x.jpeg" for number in range(111)))
    found = load_catalog_folder(catalog_row("imagenet-v2-top-images"), root, "test")
    assert found.num_classes == 1000
    assert all(int(found.name(index).split("/")[1]) == found.labels[index] for index in range(111))


def test_corruptions_without_the_hold_outs(tmp_path: Path):
    wnid = class_list("imagenet_1k")[4]
    names = [f"{corruption}/{severity}/{wnid}/x.JPEG" for corruption in ("fog", "spatter") for severity in (1, 5)]
    root = images(tmp_path, *names)
    found = load_catalog_folder(catalog_row("imagenet-c"), root, "test")
    assert list(found.names) == names[:2]
    assert found.labels.tolist() == [4, 4]
    assert len(load_catalog_folder(catalog_row("imagenet-c"), root / "fog/5", "test")) == 1


def test_a_subset_of_200_counts_from_its_own_list(tmp_path: Path):
    wnids = class_list("imagenet_r")
    root = images(tmp_path, f"imagenet-r/{wnids[199]}/a.jpg", f"imagenet-r/{wnids[3]}/b.jpg")
    found = load_catalog_folder(catalog_row("imagenet-r"), root, "test")
    assert (sorted(found.labels.tolist()), found.num_classes) == ([3, 199], 200)
    stranger = next(wnid for wnid in class_list("imagenet_1k") if wnid not in class_list("imagenet_a"))
    with pytest.raises(ValueError, match="not among the 200 of this set"):
        load_catalog_folder(catalog_row("imagenet-a"), images(tmp_path / "a", f"{stranger}/a.jpg"), "test")


def test_the_draw_takes_thirty_a_class_and_is_the_seeds(tmp_path: Path):
    names = [
        f"{name}/image_{number:04d}.jpg" for name, count in (("ant", 33), ("crab", 41)) for number in range(count)
    ]
    root = images(tmp_path / "101_ObjectCategories", *names)
    row = catalog_row("caltech101")
    train, test = (load_catalog_folder(row, root, split, seed=3) for split in ("train", "test"))
    assert train.labels.tolist() == [0] * 30 + [1] * 30
    assert test.labels.tolist() == [0] * 3 + [1] * 11
    assert sorted([*train.names, *test.names]) == names
    assert list(load_catalog_folder(row, root, "train", seed=4).names) != list(train.names)
    above = load_catalog_folder(row, tmp_path, "train", seed=3)
    assert [name.split("/", 1)[1] for name in above.names] == list(train.names)


def test_too_few_images_for_the_draw(tmp_path: Path):
    root = images(tmp_path, *(f"ant/{number}.jpg" for number in range(30)))
    with pytest.raises(ValueError, match="no more than 30 images"):
        load_catalog_folder(catalog_row("caltech101"), root, "train")


def test_another_layout_is_not_guessed(tmp_path: Path):
    root = images(tmp_path, "images/banded/a.jpg", "images/braided/b.jpg")
    with pytest.raises(ValueError, match=r"labels/train1.txt.* were not found.*dtd is read as .*train/<class>/"):
        load_catalog_folder(catalog_row("dtd"), root, "train")
    sorted_by_hand = images(tmp_path / "sorted", "train/banded/a.jpg", "test/banded/b.jpg")
    assert len(load_catalog_folder(catalog_row("dtd"), sorted_by_hand, "test")) == 1
    with pytest.raises(ValueError, match="no image in a class folder"):
        load_catalog_folder(catalog_row("imagenet-a"), images(tmp_path / "loose", "a.jpg"), "test")
