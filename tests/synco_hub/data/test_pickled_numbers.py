import pickle

import numpy as np
import pytest

from synco_hub.data.pickled_numbers import NUMBER_CLASSES, plain_numbers
from synco_hub.restricted_unpickler import load_plain


def read(data):
    return plain_numbers(load_plain(data, NUMBER_CLASSES, encoding="latin1"))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", ["<i8", ">i4", "<f8", "<f4", "uint8", "bool"])
def test_arrays_and_scalars_become_lists_and_numbers(kind, protocol):
    numbers = np.random.default_rng(0).normal(scale=50, size=(3, 4)).astype(kind)
    value = {"c": numbers, "fortran": np.asfortranarray(numbers), "empty": numbers[:0], "one": [numbers[0, 0], (1,)]}
    found = read(pickle.dumps(value, protocol))
    assert found["c"] == found["fortran"] == numbers.tolist()
    assert found["empty"] == []
    assert found["one"] == [numbers[0, 0].item(), [1]]


def test_python_2_wrote_bytes_as_text():
    array = np.array([0, 200, 255], dtype=np.int64)
    # What Python 2's numpy wrote: the old module name, and a byte string for the data.
    data = pickle.dumps(array, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert read(data) == [0, 200, 255]


class Payload:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([Payload()], dtype=object), "names builtins.print|only numbers"),
        (np.array([{"a": 1}], dtype=object), "only numbers"),
        (np.array(["text"]), "only numbers"),
        (np.zeros(2, dtype=[("x", "<i4")]), "only numbers"),
        (np.datetime64("2020-01-01"), "only numbers"),
        (Payload(), "print"),
    ],
)
def test_anything_but_numbers_is_refused(value, message, capsys):
    with pytest.raises(ValueError, match=message):
        read(pickle.dumps(value))
    assert capsys.readouterr().out == ""


def test_damaged_states_are_refused():
    array = pickle.dumps(np.arange(4), 2)
    for damaged in (array.replace(b"i8", b"O8"), array[:-20] + b"."):
        with pytest.raises(ValueError, match="refused"):
            read(damaged)
