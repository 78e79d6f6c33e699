import numpy as np
import pytest

from synco_hub.data.class_labels import labels_of_list

WNIDS = ("n00000005", "n00000001", "n00000003")


def test_wnids_are_looked_up_whatever_their_order():
    labels = labels_of_list(np.array([0, 1, -1, 1]), ["n00000003", "n00000005"], WNIDS, "set")
    assert labels.tolist() == [2, 0, -1, 0]


def test_folder_names_that_are_numbers_are_labels():
    folders = sorted(str(number) for number in range(111))
    stored = np.arange(111)
    wnids = [f"n{number:08d}" for number in range(111)]
    assert labels_of_list(stored, folders, wnids, "set").tolist() == [int(name) for name in folders]
    # Sorted as text, folder 100 stands where label 3 is meant.
    assert folders[3] == "100"


def test_other_names_follow_the_list():
    assert labels_of_list(np.array([2, 0]), ["bonnet", "mamba", "langur"], WNIDS, "set").tolist() == [2, 0]
    assert labels_of_list(np.array([-1]), [], WNIDS, "set").tolist() == [-1]


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
        labels_of_list(np.array([0, 1]), names, WNIDS, "set")
