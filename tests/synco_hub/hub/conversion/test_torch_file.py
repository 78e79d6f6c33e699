import argparse
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from foreign_checkpoints import yacs

from synco_hub.hub.conversion.stored_tensor import StoredTensor
from synco_hub.hub.conversion.torch_file import read_torch_file


@pytest.fixture(params=["zip", "legacy"])
def save(request, tmp_path):
    def write(content, name="file.pth"):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=request.param == "zip")
        return tmp_path / name

    return write


def test_tensors_of_every_kind_come_back(save):
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(6, 8, generator=generator)
    tensors = {
        "plain": base,
        "transposed": base.T,
        "slice": base[1:5:2, 3:],
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(base.clone()),
        "bfloat16": base.bfloat16(),
        "half": base.half(),
        "long": torch.arange(5),
        "bool": torch.tensor([True, False]),
        "byte": torch.arange(5, dtype=torch.uint8),
        "double": base.double(),
    }
    found = read_torch_file(save(tensors))
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert isinstance(found[name], StoredTensor)
        loaded = found[name].load()
        assert loaded.dtype == tensor.dtype
        assert torch.equal(loaded, tensor.detach()), name


def test_configurations_state_and_shared_storages(save):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "config": yacs({"MODEL": {"TYPE": "synco"}}),
        "args": argparse.Namespace(path=Path("/data"), sizes=torch.Size([2, 3]), device=torch.device("cpu")),
        "tied": [network[0].weight, network[0].weight],
        "epoch": 3,
    }
    found = read_torch_file(save(content))
    assert list(found["model"]) == list(network.state_dict())  # and not the attribute `_metadata`
    assert found["config"] == {"MODEL": {"TYPE": "synco"}}
    assert found["args"] == {"path": "/data", "sizes": (2, 3), "device": "cpu"}
    assert torch.equal(found["tied"][1].load(), network[0].weight)
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"].load(), optimizer.state[network[0].weight]["exp_avg"])


class Run:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({self.path!r}, 'w').close()",)


def test_a_checkpoint_with_code_is_refused_and_the_code_not_run(save, tmp_path):
    sentinel = tmp_path / "sentinel"
    path = save({"model": {"weight": torch.ones(2)}, "config": {"deep": [Run(str(sentinel))]}})
    with pytest.raises(ValueError, match=r"nothing in it was run: it names (builtins|__builtin__)\.exec"):
        read_torch_file(path)
    assert not sentinel.exists()
    torch.load(path, weights_only=False)
    assert sentinel.exists()  # the same file does run where nobody minds


def test_a_whole_module_is_refused(save):
    with pytest.raises(ValueError, match=r"names torch\.nn\.modules\.linear\.Linear"):
        read_torch_file(save(torch.nn.Linear(2, 2)))


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


def zipped(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    return tmp_path / "file.pth"


def test_zip_bombs_and_repeated_entries_are_refused(tmp_path):
    path = zipped(tmp_path, {"x": torch.zeros(1_000_000)})
    rewritten(path, lambda data: data, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match=r"compressed or encrypted, which torch.save never does"):
        read_torch_file(path)
    path = zipped(tmp_path, {"x": torch.zeros(10)})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("file/data.pkl", pickle.dumps({}))
    with pytest.raises(ValueError, match=r"holds the entry 'file/data.pkl' twice"):
        read_torch_file(path)


def test_damage_is_told(tmp_path, save):
    path = save({"x": torch.arange(5000.0)})
    whole = path.read_bytes()
    for cut in (1, 7, 300, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"file\.pth"):
            read_torch_file(path)["x"].load()
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="refused"):
        read_torch_file(path)


def test_a_zip_file_without_its_end_is_told(tmp_path):
    torch.save({"a": torch.randn(1000)}, tmp_path / "x.pth")
    data = (tmp_path / "x.pth").read_bytes()
    for kept in (len(data) - 30, len(data) // 2, 200):
        (tmp_path / "x.pth").write_bytes(data[:kept])
        with pytest.raises(ValueError, match=r"x\.pth begins as a zip file .* its end is missing"):
            read_torch_file(tmp_path / "x.pth")


def test_a_flipped_bit_in_the_zip_format_is_found(tmp_path):
    path = zipped(tmp_path, {"x": torch.arange(5000.0)})
    data = bytearray(path.read_bytes())
    place = data.find(torch.arange(5000.0).numpy().tobytes()[400:500])
    data[place + 3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="damaged"):
        read_torch_file(path)["x"].load()


def test_other_files_are_told_apart(tmp_path):
    script = torch.jit.script(torch.nn.Linear(2, 2))
    script.save(str(tmp_path / "script.pt"))
    with pytest.raises(ValueError, match="TorchScript program"):
        read_torch_file(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"none that torch.save wrote"):
        read_torch_file(tmp_path / "other.zip")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="no checkpoint of torch"):
        read_torch_file(tmp_path / "plain.pkl")
    (tmp_path / "old.tar").write_bytes(bytes(257) + b"ustar" + bytes(300))
    with pytest.raises(ValueError, match=r"before 0\.1\.10"):
        read_torch_file(tmp_path / "old.tar")


def test_sparse_and_quantized_tensors_are_refused(save):
    with pytest.raises(ValueError, match=r"names torch\._utils\._rebuild_sparse_tensor"):
        read_torch_file(save({"x": torch.eye(3).to_sparse()}))
