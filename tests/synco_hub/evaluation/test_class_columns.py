""""""

import pytest

from synco_hub.data.class_lists import class_list, imagenet_indices
from synco_hub.evaluation.class_columns import class_columns


def test_wnids_are_found_in_any_order_and_among_others():
    mixed = ("dog", *reversed(class_list("imagenet_1k")))
    columns = class_columns(mixed, "imagenet_a")
    assert [mixed[column] for column in columns] == list(class_list("imagenet_a"))
    assert class_columns(class_list("imagenet_1k")).tolist() == list(range(1000))


def test_thousand_other_names_follow_the_sorted_wnids():
    names = tuple(f"LABEL_{index}" for index in range(1000))
    assert class_columns(names, "imagenet_r").tolist() == imagenet_indices("imagenet_r")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (class_list("imagenet_a"), "200 classes cover 86 of the 200 of imagenet_r"),
        (tuple(f"fern{index}" for index in range(10)), "10 classes cover 0 of the 200"),
    ],
)
def test_a_classifier_that_lacks_classes_is_refused(names, text):
    with pytest.raises(ValueError, match=text):
        class_columns(names, "imagenet_r")
