"""Labels and outputs by wnid or by place."""

import numpy as np
import pytest

from synco_hub.data.class_labels import (
    find_class_columns,
    map_labels_to_list,
    number_alike,
    number_by_head,
    share_class_names,
    take_recorded_numbers,
    warn_of_untrained_classes,
)
from synco_hub.data.class_lists import imagenet_indices, read_class_list
from synco_hub.data.image_dataset import DatasetDescription, ImageDataset, PixelArrayDataset
from synco_hub.data.subsets import ImageSubset

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


def images(names, labels, from_rows=False, multi_hot=None):
    pixels = np.zeros((len(labels), 2, 2, 3), dtype=np.uint8)
    about = DatasetDescription("x", "x", "train", len(labels), len(names), "", "0")
    made = PixelArrayDataset(pixels, [str(row) for row in range(len(labels))], labels, names, about)
    made.names_from_rows = from_rows
    if multi_hot is not None:
        made.multi_hot = np.array(multi_hot, dtype=np.float32)
    return made


def named(made):
    return [made.class_names[label] if label >= 0 else None for label in made.labels]


@pytest.mark.parametrize(
    ("ours", "theirs", "joined"),
    [
        (("b", "d"), ("a", "b", "c"), ["a", "b", "c", "d"]),
        (("2", "10"), ("1", "10"), ["1", "2", "10"]),
        (("10", "2"), ("1", "10"), ["1", "10", "2"]),
        (("-3", "4"), ("-1", "4"), ["-3", "-1", "4"]),
    ],
)
def test_tables_that_name_no_classes_take_those_of_both(ours, theirs, joined):
    train, test = images(ours, [1, 0, -1], True), images(theirs, [1, 1], True)
    before = named(train), named(test)
    number_alike(train, test)
    assert train.class_names == test.class_names == joined
    assert (named(train), named(test)) == before
    assert train.description.num_classes == len(joined)


def test_the_same_names_in_another_order_are_the_same_classes_and_others_are_left():
    train, test = images(("a", "b", "c"), [0, 1, 2]), images(("c", "a", "b"), [0, 1, 2])
    number_alike(train, test)
    assert (test.class_names, test.labels.tolist()) == (["a", "b", "c"], [2, 0, 1])
    few = images(("b",), [0, 0], True)
    number_alike(train, few)
    assert (few.class_names, few.labels.tolist()) == (["a", "b", "c"], [1, 1])
    for stranger in (images(("a", "z", "c"), [0]), images(("z",), [0], True), images(("a", "b"), [1])):
        kept = list(stranger.class_names)
        number_alike(train, stranger)
        assert (train.class_names, stranger.class_names) == (["a", "b", "c"], kept)


def test_several_classes_an_image_move_with_their_names():
    train = images(("a", "c"), [-1, -1], True, [[1, 0], [-1, 1]])
    test = images(("b", "c"), [-1], True, [[1, 1]])
    number_alike(train, test)
    assert train.multi_hot.tolist() == [[1, 0, 0], [-1, 0, 1]]
    assert test.multi_hot.tolist() == [[0, 1, 1]]


def test_a_part_of_a_table_follows_too():
    whole = images(("2", "7"), [0, 1, 1], True)
    part = ImageSubset(whole, np.array([1, 2]), "two")
    number_alike(part, images(("5",), [0], True))
    assert (part.class_names, part.labels.tolist()) == (["2", "5", "7"], [2, 2])
    assert whole.class_names == ["2", "7"]


def test_images_follow_the_outputs_of_a_classifier_by_name():
    follow = images(("dog", "ant"), [0, 1, -1])
    number_by_head(follow, ("ant", "bee", "dog"))
    assert (follow.class_names, follow.labels.tolist()) == (["ant", "bee", "dog"], [2, 0, -1])
    strange = images(("dog", "cow"), [0, 1])
    number_by_head(strange, ("ant", "bee", "dog"))
    assert strange.class_names == ["dog", "cow"]
    ids = images(("0", "3"), [0, 1], True)
    number_by_head(ids, [f"LABEL_{number}" for number in range(5)])
    assert (ids.labels.tolist(), ids.num_classes) == ([0, 3], 5)
    beyond = images(("0", "9"), [0, 1], True)
    number_by_head(beyond, [f"LABEL_{number}" for number in range(5)])
    assert beyond.labels.tolist() == [0, 1]


def test_a_run_that_counted_ids_with_gaps_goes_on_with_as_many_outputs():
    ids = images(("0", "5", "9"), [2, 0, -1, 1], True)
    take_recorded_numbers(ids, {"num_classes": 10})
    assert (ids.labels.tolist(), ids.num_classes) == ([9, 0, -1, 5], 10)
    for recorded in (None, {}, {"num_classes": 3}, {"num_classes": 9}):
        same = images(("0", "5", "9"), [2, 0], True)
        take_recorded_numbers(same, recorded)
        assert same.class_names == ["0", "5", "9"]
    named = images(("0", "5"), [1, 0])
    take_recorded_numbers(named, {"num_classes": 6})
    assert named.class_names == ["0", "5"]


def test_classes_that_only_test_images_have_are_named(caplog):
    names = ("fern", "leaf", "tree")
    warn_of_untrained_classes(images(names, [0, 1, -1]), images(names, [0, 1, -1]))
    warn_of_untrained_classes(images(names, [0]), images(names[:2], [1]))  # other lists are refused elsewhere
    assert not caplog.messages
    warn_of_untrained_classes(images(names, [1, -1]), images(names, [0, 2, 1, 2]))
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "2 classes have no training image (fern, tree)."
    ]
