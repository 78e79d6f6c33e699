import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synco_hub.data.restricted_unpickling import read_pickled_arrays


class Malicious:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_lists_and_text_of_every_protocol(protocol: int, tmp_path: Path):
    rng = np.random.default_rng(protocol)
    content = {
        b"data": rng.integers(0, 256, (4, 7), dtype=np.uint8),
        "labels": [3, 1, 2, 0],
        b"names": [b"a.png", "b.png"],
        "turned": rng.normal(size=(3, 2)).T,
    }
    (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_pickled_arrays(tmp_path / "batch")
    assert set(found) == {"data", "labels", "names", "turned"}
    assert (found["data"] == content[b"data"]).all()
    assert (found["turned"] == content["turned"]).all()
    assert found["labels"] == [3, 1, 2, 0]


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
        Path("EXECUTED"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_nothing_else_is_made(payload: Any, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": payload}, protocol=protocol))
    with pytest.raises(ValueError, match="no pickle of plain arrays"):
        read_pickled_arrays("batch")
    assert [path.name for path in tmp_path.iterdir()] == ["batch"]


def test_other_codecs_than_that_of_bytes(tmp_path: Path):
    (tmp_path / "batch").write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(ValueError, match="encodes str as 'rot13'"):
        read_pickled_arrays(tmp_path / "batch")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"data": np.zeros(99)})[:-40]])
def test_damaged_files(content: bytes, tmp_path: Path):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(ValueError, match="unpack the original archive again"):
        read_pickled_arrays(tmp_path / "batch")


def test_no_dict(tmp_path: Path):
    (tmp_path / "batch").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="holds list, not a dict"):
        read_pickled_arrays(tmp_path / "batch")
