import numpy as np
import pytest
import torch

from synco_hub.data import DatasetDescription, ImageDataset
from synco_hub.evaluation.classification_targets import check_same_classes, classification_targets


def images(labels, names=("a", "b")):
    about = DatasetDescription("d", "here", "train", len(labels), len(names), "given", "0")
    return ImageDataset(labels, names, about)


def test_one_class_or_several():
    single = classification_targets(images([1, 0]), "probing")
    assert (single.multi_label, single.primary_metric) == (False, "top1")
    assert single.values.tolist() == [1, 0]
    several = images([0, 1])
    several.multi_hot = np.array([[1, 1], [-1, 1]])
    targets = classification_targets(several, "probing")
    assert (targets.multi_label, targets.primary_metric) == (True, "map_11_point")
    assert torch.equal(targets.values, torch.tensor([[1.0, 1], [-1, 1]]))


def test_bad_splits():
    with pytest.raises(ValueError, match="the split 'train' of d is empty"):
        classification_targets(images([]), "probing")
    with pytest.raises(ValueError, match="probing needs a class for every image"):
        classification_targets(images([0, -1]), "probing")
    broken = images([0, 1])
    broken.multi_hot = np.zeros((1, 2))
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        classification_targets(broken, "probing")


def test_classes_of_head_and_data():
    check_same_classes(("a", "b"), ("a", "b"))
    check_same_classes(("LABEL_0", "LABEL_1"), ("a", "b"))
    with pytest.raises(ValueError, match="the head has 1 classes, the data set 2"):
        check_same_classes(("a",), ("a", "b"))
    with pytest.raises(ValueError, match="class 1 is 'c' in the head and 'b'"):
        check_same_classes(("a", "c"), ("a", "b"))
