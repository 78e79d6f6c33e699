import io
import itertools
import struct
import zipfile

import pytest
import torch

from synco_hub.hub.conversion.stored_tensor import StoredStorage, StoredTensor, check_bytes, storage_identifier
from synco_hub.hub.conversion.torch_file import read_torch_file


def zipped(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    return tmp_path / "file.pth"


def rewritten(path, change, **extra):
    """The same zip file with its pickle changed, and entries added."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", extra.get("compression", zipfile.ZIP_STORED)) as archive:
        for name, data in entries.items():
            archive.writestr(name, change(data) if name.endswith("/data.pkl") else data)
    path.write_bytes(out.getvalue())
    return path


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path):
    tensor = torch.zeros(100)  # 100 is written as K\x64
    absurd = b"J" + struct.pack("<i", 2**31 - 1)
    for change, message in (
        (lambda data: data.replace(b"K\x64", absurd), "has no room|claims|where the file has"),
        (lambda data: data.replace(b"K\x64", b"K\x63"), r"claims 99 numbers of float32 \(396 bytes\)"),
    ):
        path = rewritten(zipped(tmp_path, {"x": tensor}), change)
        with pytest.raises(ValueError, match=message):
            read_torch_file(path)
    # An expanded tensor: four bytes in the file, a terabyte in memory.
    expanded = torch.zeros(1).expand(1 << 20, 1 << 18)
    with pytest.raises(ValueError, match="which has no room"):
        read_torch_file(zipped(tmp_path, {"x": expanded}))


def test_views_outside_of_their_storage_are_refused(tmp_path):
    tensor = torch.zeros(9)[2:5]  # offset 2, size 3
    path = rewritten(zipped(tmp_path, {"x": tensor}), lambda data: data.replace(b"K\x02", b"K\x07", 1))
    with pytest.raises(ValueError, match="has no room"):
        read_torch_file(path)


def stored(numbers, offset, shape, stride):
    data = torch.arange(numbers, dtype=torch.float32).numpy().tobytes()
    return StoredTensor(StoredStorage(lambda: data, "float32", numbers), offset, shape, stride)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"), [(0, (3, 4), (4, 1)), (5, (2, 2), (1, 3)), (11, (), ()), (0, (0, 4), (4, 1))]
)
def test_a_stored_tensor_is_the_numbers_at_its_steps(offset, shape, stride):
    loaded = stored(12, offset, shape, stride).load()
    assert loaded.shape == shape
    for index in itertools.product(*map(range, shape)):
        assert loaded[index] == offset + sum(i * step for i, step in zip(index, stride, strict=True))


def test_fewer_bytes_than_numbers_are_damage():
    storage = StoredStorage(lambda: b"1234567", "float32", 2)
    with pytest.raises(ValueError, match=r"7 bytes in the file, but 2 numbers of torch\.float32 are due"):
        StoredTensor(storage, 0, (2,), (1,)).load()


@pytest.mark.parametrize(
    "identifier",
    [
        None,
        ("module", "float32", "0", "cpu", 1),
        ("storage", "float32", "0", "cpu"),
        ("storage", "object", "0", "cpu", 1),
        ("storage", "float32", 0, "cpu", 1),
        ("storage", "float32", "0", "cpu", -1),
        ("storage", "float32", "0", "cpu", 1.5),
    ],
)
def test_what_describes_no_storage_is_refused(identifier):
    with pytest.raises(ValueError, match="storage"):
        storage_identifier(identifier)
    assert storage_identifier(("storage", "float32", "0", "cpu", 1)) == ("float32", "0", 1)


def test_claims_are_compared_with_the_bytes_there():
    check_bytes("0", "float64", 3, 24)
    check_bytes("0", "float64", 3, None, at_most=24)
    for found, at_most in ((23, 0), (25, 0), (None, 23)):
        with pytest.raises(ValueError, match=r"claims 3 numbers of float64 \(24 bytes\)"):
            check_bytes("0", "float64", 3, found, at_most)
