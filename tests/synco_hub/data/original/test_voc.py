from pathlib import Path

import numpy as np
import pytest
from data_trees.original import put, write_original

from synco_hub.data.class_lists import class_list
from synco_hub.data.original.voc import read_voc2007

NAMES = class_list("voc2007")


def test_annotations_say_what_the_lists_say(tmp_path: Path):
    tree = write_original("voc2007", tmp_path, seed=8)
    main = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main"
    for split, part in (("train", "trainval"), ("test", "test")):
        by_lists = read_voc2007(tmp_path, split)
        (main / f"dog_{part}.txt").unlink()
        by_annotations = read_voc2007(tmp_path / "VOCdevkit", split)
        assert (by_lists.multi_hot == tree.labels[split]).all()
        assert (by_annotations.multi_hot == by_lists.multi_hot).all()
        assert ("Annotations" in by_annotations.rule, "Annotations" in by_lists.rule) == (True, False)
    values = np.unique(by_lists.multi_hot)
    assert values.tolist() == [-1, 0, 1]


def test_damaged_lists_and_annotations(tmp_path: Path):
    write_original("voc2007", tmp_path)
    base = tmp_path / "VOCdevkit/VOC2007"
    put(base / "ImageSets/Main/cat_test.txt", "005001 2\n")
    with pytest.raises(ValueError, match="not an image and 1, 0 or -1"):
        read_voc2007(tmp_path, "test")
    put(base / "ImageSets/Main/cat_test.txt", "005001 1\n")
    with pytest.raises(ValueError, match="4 images of the split are not in it"):
        read_voc2007(tmp_path, "test")
    (base / "ImageSets/Main/cat_test.txt").unlink()
    put(base / "Annotations/005001.xml", "<annotation><object>")
    with pytest.raises(ValueError, match="not a readable annotation"):
        read_voc2007(tmp_path, "test")
    put(base / "Annotations/005001.xml", "<a><object><name>unicorn</name></object></a>")
    with pytest.raises(ValueError, match="'unicorn' is not among the 20 classes"):
        read_voc2007(tmp_path, "test")
