"""Labels and outputs by wnid or by place."""

import numpy as np
import pytest

from synco_hub.data.class_labels import find_class_columns, map_labels_to_list, share_class_names
from synco_hub.data.class_lists import imagenet_indices, read_class_list
from synco_hub.data.image_dataset import DatasetDescription, ImageDataset

WNIDS = ("n00000005", "n00000001", "n00000003")


def test_wnids_are_looked_up_whatever_their_order():
    labels = map_labels_to_list(np.array([0, 1, -1, 1]), ["n00000003", "n00000005"], WNIDS, "set")
    assert labels.tolist() == [2, 0, -1, 0]


def test_folder_names_that_are_numbers_are_labels():
    folders = sorted(str(number) for number in range(111))
    stored = np.arange(111)
    wnids = [f"n{number:08d}" for number in range(111)]
    assert map_labels_to_list(stored, folders, wnids, "set").tolist() == [int(name) for name in folders]
    # Sorted as text, folder 100 stands where label 3 is meant.
    assert folders[3] == "100"


def test_other_names_follow_the_list():
    assert map_labels_to_list(np.array([2, 0]), ["bonnet", "mamba", "langur"], WNIDS, "set").tolist() == [2, 0]
    assert map_labels_to_list(np.array([-1]), [], WNIDS, "set").tolist() == [-1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["n00000001", "n00000009"], "1 of 2 classes are not among the 3 .*n00000009"),
        (["n00000001", "bonnet"], "1 of 2 classes are not among"),
        (["0", "3"], "label 3 is beyond the 3 classes"),
        (["bonnet", "mamba"], "2 classes .* where this set has 3"),
    ],
)
def test_what_is_no_copy_of_the_set_is_refused(names: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        map_labels_to_list(np.array([0, 1]), names, WNIDS, "set")


def test_wnids_are_found_in_any_order_and_among_others():
    mixed = ("dog", *reversed(read_class_list("imagenet_1k")))
    columns = find_class_columns(mixed, "imagenet_a")
    assert [mixed[column] for column in columns] == list(read_class_list("imagenet_a"))
    assert find_class_columns(read_class_list("imagenet_1k")).tolist() == list(range(1000))


def test_thousand_other_names_follow_the_sorted_wnids():
    names = tuple(f"LABEL_{index}" for index in range(1000))
    assert find_class_columns(names, "imagenet_r").tolist() == imagenet_indices("imagenet_r")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (read_class_list("imagenet_a"), "200 classes cover 86 of the 200 of imagenet_r"),
        (tuple(f"fern{index}" for index in range(10)), "10 classes cover 0 of the 200"),
    ],
)
def test_a_classifier_that_lacks_classes_is_refused(names, text):
    with pytest.raises(ValueError, match=text):
        find_class_columns(names, "imagenet_r")


class Labeled(ImageDataset):
    def __init__(self, labels: list[int], class_names: list[str]) -> None:
        about = DatasetDescription("toy", "toy", "train", len(labels), len(class_names), "all", "")
        super().__init__(labels, class_names, about)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (["a", "c"], ["b", "c"], ["a", "b", "c"]),
        (["2", "10"], ["3"], ["2", "3", "10"]),
        (["b", "a"], ["b", "a"], ["b", "a"]),
    ],
)
def test_splits_share_one_list_of_classes(first: list[str], second: list[str], shared: list[str]) -> None:
    splits = [Labeled([0, 1, -1, 1], first), Labeled([0, 0, -1], second), Labeled([-1, -1], [])]
    before = [[images.class_names[k] if k >= 0 else None for k in images.labels] for images in splits]
    share_class_names(splits)
    assert [images.class_names for images in splits] == [shared, shared, []]
    assert [[images.class_names[k] if k >= 0 else None for k in images.labels] for images in splits] == before
    assert splits[1].description.num_classes == len(shared)
