from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.davis import PALETTE
from synco_hub.data.segmentation import SEGMENTATION_SETS, load_masked_images
from synco_hub.settings import DatasetChoice


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype=np.uint8)).save(path)


def _folder(root, train=((0, 1),), test=((0, 2),)):
    for split, masks in (("train", train), ("test", test)):
        for number, mask in enumerate(masks):
            write(root / "images" / split / f"{number}.png", [[[9, 9, 9]] * 2])
            write(root / "masks" / split / f"{number}.png", [mask])
    return DatasetChoice(str(root))


def test_the_catalog_names_every_class():
    assert {name: len(row.class_names) for name, row in SEGMENTATION_SETS.items()} == {"voc2012": 21, "ade20k": 150}
    assert all(len(set(row.class_names)) == len(row.class_names) for row in SEGMENTATION_SETS.values())
    assert SEGMENTATION_SETS["voc2012"].class_names[15] == "person"
    assert [SEGMENTATION_SETS["ade20k"].class_names[number] for number in (0, 12, 149)] == ["wall", "person", "flag"]


def test_classes_are_those_of_both_splits_masks_of_a_list_or_as_many_as_are_given(tmp_path):
    choice = _folder(tmp_path)
    train, test = load_masked_images(choice)
    assert train.class_names == test.class_names == ("0", "1", "2")
    assert len(load_masked_images(choice, num_classes=5)[0].class_names) == 5
    (tmp_path / "classes.txt").write_text("\ufeffground\nbird\n\nbee\n", encoding="utf-8")
    for count, names in {
        None: ("ground", "bird", "bee"),
        2: ("ground", "bird"),
        4: ("ground", "bird", "bee", "3"),
    }.items():
        assert load_masked_images(choice, num_classes=count)[1].class_names == names
    (tmp_path / "classes.txt").write_text("bird\nbird\n")
    with pytest.raises(ValueError, match="names 'bird' twice"):
        load_masked_images(choice)
    (tmp_path / "classes.txt").write_text("5\n3\n4\n")
    assert load_masked_images(choice, num_classes=3)[1].class_names == ("5", "3", "4")
    with pytest.raises(ValueError, match=r"class 3 is called by its number, as .* calls class 1: name all 5 classes"):
        load_masked_images(choice, num_classes=5)


def test_what_is_not_so_of_a_known_data_set_is_refused_before_it_is_looked_for():
    for name, count in (("voc2012", 22), ("ade20k", 151)):
        with pytest.raises(ValueError, match=rf"num_classes={count}: {name} has {count - 1} classes; leave it out"):
            load_masked_images(DatasetChoice(name, "nowhere"), num_classes=count)
    with pytest.raises(ValueError, match="0 is the class 'background' of voc2012"):
        load_masked_images(DatasetChoice("voc2012", "nowhere"), zero_is_void=True)


def test_a_foreground_of_255_is_told_from_a_class(tmp_path):
    with pytest.raises(ValueError, match="where 255 marks the foreground, write 1 in its place"):
        load_masked_images(_folder(tmp_path, train=[(0, 255)], test=[(0, 255)]))


@pytest.mark.parametrize("place", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_is_found_where_it_was_unpacked(place, tmp_path):
    root = tmp_path / place
    for name, mask in (("a", [[0, 1]]), ("b", [[20, 255]])):
        write(root / "JPEGImages" / f"{name}.jpg", [[[5, 5, 5]] * 2])
        write(root / "SegmentationClass" / f"{name}.png", mask)
    for name, listed in (("train", "a"), ("val", "b")):
        (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(listed)
    train, test = load_masked_images(DatasetChoice("voc2012", str(tmp_path)))
    assert (train.name, train.names, test.names, len(test.class_names)) == ("voc2012", ("a",), ("b",), 21)
    assert test.read(0)[1].tolist() == [[20, 255]]


def test_ade_numbers_its_classes_from_one(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for split in ("training", "validation"):
        write(root / "images" / split / "x.jpg", [[[5, 5, 5]] * 3])
        write(root / "annotations" / split / "x.png", [[0, 1, 150]])
    train, test = load_masked_images(DatasetChoice("ade20k", str(tmp_path)))
    assert test.read(0)[1].tolist() == [[255, 0, 149]]
    assert train.zero_is_void


def _table(root, masks_as="mask", coloured=False, **more):
    datasets = pytest.importorskip("datasets")
    for split, values in (("train", [[0, 1]]), ("validation", [[0, 2]])):
        mask = np.array(values, dtype=np.uint8)
        if coloured:
            mask = np.array(PALETTE, dtype=np.uint8)[mask]
        image = Image.fromarray(np.full((1, 2, 3), 7, dtype=np.uint8))
        rows = {"image": [image] * 2, masks_as: [Image.fromarray(mask)] * 2, **more}
        columns = {"image": datasets.Image(), masks_as: datasets.Image()}
        columns |= {name: datasets.Value("int64") for name in more}
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
        (root / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return root


@pytest.mark.parametrize("column", ["mask", "annotation", "label", "something"])
def test_a_table_has_a_column_of_masks(column, tmp_path):
    choice = DatasetChoice(str(_table(tmp_path, column, number=[3, 4])))
    train, test = load_masked_images(choice)
    assert (len(train), len(test)) == (2, 2)
    assert test.read(1)[1].tolist() == [[0, 2]]
    assert "validation" in test.split_rule
    with pytest.raises(ValueError, match="name the one of images by --image-column"):
        load_masked_images(DatasetChoice(str(tmp_path), label_column="none"))


def test_the_hub_copy_of_voc_may_be_in_colours(tmp_path):
    folder = _table(tmp_path / "copy", coloured=True)
    choice = DatasetChoice("voc2012", dataset_id=str(folder))
    train, test = load_masked_images(choice)
    assert test.read(0)[1].tolist() == [[0, 2]]
    assert len(train.class_names) == 21


def test_without_files_the_copy_on_the_hub_is_read(tmp_path, monkeypatch):
    copy = _table(tmp_path / "copy" / "scene_parsing", "annotation").parent
    row = replace(SEGMENTATION_SETS["ade20k"], dataset_id=str(copy), revision=None)
    monkeypatch.setitem(SEGMENTATION_SETS, "ade20k", row)
    train, test = load_masked_images(DatasetChoice("ade20k"))
    assert (train.name, len(train.class_names), len(test)) == ("ade20k", 150, 2)
    assert test.read(0)[1].tolist() == [[255, 1]]  # numbered from 1


def test_what_is_nowhere_says_what_may_be_given():
    with pytest.raises(FileNotFoundError, match="give one of images and masks, voc2012 or ade20k"):
        load_masked_images(DatasetChoice("nowhere"))
