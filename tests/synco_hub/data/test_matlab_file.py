from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from synco_hub.data.matlab_file import read_matlab_file


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_numbers_of_every_type(kind: str, compressed: bool, tmp_path: Path):
    rng = np.random.default_rng(len(kind))
    stored = {
        "one": np.array([[7]], dtype=kind),
        "row": rng.integers(0, 100, (1, 9)).astype(kind),
        "table": rng.integers(0, 100, (5, 3)).astype(kind),
        "empty": np.zeros((0, 4), dtype=kind),
    }
    savemat(tmp_path / "x.mat", stored, do_compression=compressed)
    found = read_matlab_file(tmp_path / "x.mat")
    assert set(found) == set(stored)
    for name, values in stored.items():
        assert found[name].shape == values.shape
        assert (found[name] == values).all()


@pytest.mark.parametrize("compressed", [False, True])
def test_structs_cells_and_text(compressed: bool, tmp_path: Path):
    rows = np.empty((1, 3), dtype=[("class", object), ("fname", object)])
    for number in range(3):
        rows[0, number] = (np.uint8(number + 200), f"Größe {number}.jpg")
    names = np.array(["AM General", "x", "Coupé 2012"], dtype=object)
    savemat(tmp_path / "x.mat", {"annotations": rows, "class_names": names[None]}, do_compression=compressed)
    found = read_matlab_file(tmp_path / "x.mat")
    assert [int(row["class"].item()) for row in found["annotations"]] == [200, 201, 202]
    assert [row["fname"] for row in found["annotations"]] == [f"Größe {number}.jpg" for number in range(3)]
    assert found["class_names"] == names.tolist()


def test_damaged_files_are_an_error_and_nothing_else(tmp_path: Path):
    rows = np.empty((1, 2), dtype=[("class", object), ("fname", object)])
    rows[0, 0], rows[0, 1] = (1, "a"), (2, "b")
    path, rng = tmp_path / "x.mat", np.random.default_rng(0)
    savemat(path, {"annotations": rows, "labels": np.arange(30, dtype=np.uint8)})
    whole = path.read_bytes()
    for length in range(0, len(whole) - 8, 13):
        path.write_bytes(whole[:length])
        try:
            read_matlab_file(path)
        except ValueError as error:
            assert "unpack the original archive again" in str(error)  # noqa: PT017
    for _ in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(128, len(whole), 3):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_matlab_file(path)
        except ValueError as error:
            assert "unpack the original archive again" in str(error)  # noqa: PT017


def test_another_kind_of_file(tmp_path: Path):
    (tmp_path / "x.mat").write_bytes(b"\x89HDF" + bytes(500))
    with pytest.raises(ValueError, match="no header of a level 5 file"):
        read_matlab_file(tmp_path / "x.mat")
