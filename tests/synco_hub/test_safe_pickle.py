import copyreg
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synco_hub.safe_pickle import NUMPY_STAND_INS, PickledArray, load_arrays


def read(data: bytes) -> Any:
    return load_arrays(data, "the batch", "Unpack it again.")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["<i8", ">i4", "<f8", "<f4", "uint8", "bool"])
def test_arrays_scalars_and_text_of_every_protocol(kind: str, protocol: int):
    numbers = np.random.default_rng(protocol).normal(scale=50, size=(3, 4)).astype(kind)
    value = {
        "c": numbers,
        "fortran": np.asfortranarray(numbers),
        "turned": numbers.T,
        "every other": numbers[:, ::2],
        "empty": numbers[:0],
        "one": [numbers[0, 0], (1,)],
        b"names": [b"a.png", "b.png"],
    }
    found = read(pickle.dumps(value, protocol))
    assert set(found) == set(value)
    for name in ("c", "fortran", "turned", "every other", "empty"):
        assert isinstance(found[name], PickledArray)
        assert found[name].values.dtype == value[name].dtype
        np.testing.assert_array_equal(found[name].values, value[name])
        assert list(found[name]) == value[name].tolist()
    assert found["one"] == [numbers[0, 0].item(), (1,)]
    assert found[b"names"] == [b"a.png", "b.png"]


def test_python_2_wrote_bytes_as_text():
    array = np.array([0, 200, 255], dtype=np.uint8)
    # What Python 2's numpy wrote: the old module name, and a byte string for the data.
    data = pickle.dumps(array, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert list(read(data)) == [0, 200, 255]
    as_text = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\ntcnumpy\ndtype\n(S'u1'\n"
        b"I0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nU\x03\x00\xc8\xfftb."
    )
    assert list(read(as_text)) == [0, 200, 255]


class Malicious:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "payload",
    [
        Malicious(os.system, "touch EXECUTED"),
        Malicious(eval, "open('EXECUTED', 'w')"),
        Malicious(exec, "open('EXECUTED', 'w')"),
        Malicious(getattr, "text", "upper"),
        Malicious(np.save, "EXECUTED.npy", [1]),
        Malicious(np.load, "EXECUTED", None, True),
        Malicious(pickle.loads, b"cos\nsystem\n(S'touch EXECUTED'\ntR."),
        Malicious(print, "run"),
        Path("EXECUTED"),
        np.array([Malicious(print, "run")], dtype=object),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_nothing_else_is_made(
    payload: Any,
    protocol: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"the batch is refused and nothing in it was run: .*\. Unpack it again\."):
        read(pickle.dumps({"data": payload}, protocol=protocol))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "value",
    [
        np.array([{"a": 1}], dtype=object),
        np.array(["text"]),
        np.zeros(2, dtype=[("x", "<i4")]),
        np.datetime64("2020-01-01"),
        np.zeros(2, dtype=complex),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(value: Any):
    with pytest.raises(ValueError, match="only numbers"):
        read(pickle.dumps(value))


def test_other_codecs_than_that_of_bytes():
    with pytest.raises(ValueError, match="text in 'rot13', only latin1"):
        read(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")


@pytest.mark.parametrize("protocol", [2, 5])
def test_damaged_states_are_refused(protocol: int):
    array = pickle.dumps(np.arange(4), protocol)
    for damaged in (array.replace(b"i8", b"O8"), array.replace(b"i8", b"i7"), array[:-20] + b".", array[:-40], b""):
        with pytest.raises(ValueError, match="refused"):
            read(damaged)


def test_a_shape_of_more_numbers_than_there_are_is_refused():
    shape = b"(I1\n(I99999999\nt"
    data = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR" + shape
    data += b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntRI00\nU\x02\x00\xc8tb."
    with pytest.raises(ValueError, match="refused"):
        read(data)


def test_a_container_in_itself_is_only_a_container():
    value: list[Any] = [np.arange(3)]
    value.append(value)
    found = read(pickle.dumps(value))
    assert found[1] is found
    assert list(found[0]) == [0, 1, 2]


def test_classes_by_number_are_refused_even_when_already_looked_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(copyreg._inverted_registry, 0x99, ("os", "system"))
    monkeypatch.setitem(copyreg._extension_cache, 0x99, os.system)
    with pytest.raises(ValueError, match=r"by the number 153 \(EXT1\)"):
        read(pickle.PROTO + b"\x02" + pickle.EXT1 + b"\x99(Vtrue\ntR.")


@pytest.mark.parametrize(
    "data",
    [
        b"]r\xff\xff\xff\x7f.",  # a place in memory far beyond the file
        b"]p2147483647\n.",
        b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00.",  # a byte array of 64 GB
        b"\x80\x04B\xff\xff\xff\x7fabc.",
        b"(((",
        b"Pelsewhere\n.",  # an object that is kept elsewhere
    ],
)
def test_absurd_claims_are_refused(data: bytes):
    with pytest.raises(ValueError, match="the batch is refused"):
        read(data)


@pytest.mark.parametrize("function", sorted(NUMPY_STAND_INS))
def test_stand_ins_cannot_be_changed(function: str):
    """`BUILD` on one gives it a state, which on a plain function would set attributes."""
    module, _, name = function.rpartition(".")
    with pytest.raises(ValueError, match="refused"):
        read(f"c{module}\n{name}\n".encode() + b"}Vkey\nI1\nsb.")
