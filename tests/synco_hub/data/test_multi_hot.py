import numpy as np
import pytest

from synco_hub.data.multi_hot import multi_hot_of_lists, without_difficult


def test_rows_indices_and_names_say_the_same():
    rng = np.random.default_rng(4)
    rows = (rng.random((30, 6)) < 0.4).astype(np.float32)
    names = [f"class {number}" for number in range(6)]
    indices = [np.flatnonzero(row).tolist() for row in rows]
    spellings = [
        (rows.astype(int).tolist(), []),
        (rows.astype(int).tolist(), names),
        (indices, names),
        ([[names[index] for index in each] for each in indices], names),
    ]
    for values, known in spellings:
        found, found_names = multi_hot_of_lists(values, known, None, "x")
        assert (found == rows).all()
        assert found_names == (known or [str(number) for number in range(6)])
    assert (multi_hot_of_lists(indices, [], 6, "x")[0] == rows).all()


def test_lists_of_few_indices_are_no_rows():
    found, _ = multi_hot_of_lists([[0, 1], [1, 0]], [], 20, "x")
    assert found.sum(axis=0).tolist() == [2, 2, *[0] * 18]
    assert multi_hot_of_lists([[1], [0], None], [], None, "x")[0].tolist() == [[0, 1], [1, 0], [0, 0]]


def test_what_is_neither():
    with pytest.raises(ValueError, match="hold float"):
        multi_hot_of_lists([[0.5]], [], None, "x")
    with pytest.raises(ValueError, match="classes 0 to 7, where there are 3"):
        multi_hot_of_lists([[0, 7]], ["a", "b", "c"], None, "x")
    with pytest.raises(ValueError, match="'z' is not among its 2 classes"):
        multi_hot_of_lists([["a", "z"]], ["a", "b"], None, "x")


def test_difficult_classes_do_not_count_unless_they_are_there_too():
    rows = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    assert without_difficult(rows, [[0, 2], None]).tolist() == [[1, 0, -1], [0, 1, 0]]
    assert rows.min() == 0
