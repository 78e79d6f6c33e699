import argparse
import copyreg
import functools
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_checkpoints import yacs

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
        loaded = found[name]
        assert not loaded.requires_grad
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
    assert found["args"] == {"path": "/data", "sizes": (2, 3), "device": torch.device("cpu")}
    assert torch.equal(found["tied"][1], network[0].weight)
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"], optimizer.state[network[0].weight]["exp_avg"])


class Run:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({self.path!r}, 'w').close()",)


def test_a_checkpoint_with_code_is_refused_and_the_code_not_run(save, tmp_path):
    sentinel = tmp_path / "sentinel"
    path = save({"model": {"weight": torch.ones(2)}, "config": {"deep": [Run(str(sentinel))]}})
    with pytest.raises(ValueError, match=r"nothing in it was run: it names exec"):
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
            read_torch_file(path)["x"]
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
        read_torch_file(path)["x"]


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
    with pytest.raises(ValueError, match=r"holds a Tensor of torch.float32, torch.sparse_coo"):
        read_torch_file(save({"x": torch.eye(3).to_sparse()}))


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path):
    tensor = torch.zeros(100)  # 100 is written as K\x64
    absurd = b"J" + struct.pack("<i", 2**31 - 1)
    for change, message in (
        (lambda data: data.replace(b"K\x64", absurd), "has no room|claims|where the file has"),
        (lambda data: data.replace(b"K\x64", b"K\x63"), r"claims a storage of 396 bytes, and the file has none"),
    ):
        path = rewritten(zipped(tmp_path, {"x": tensor}), change)
        with pytest.raises(ValueError, match=message):
            read_torch_file(path)
    # An expanded tensor: four bytes in the file, a terabyte in memory.
    expanded = torch.zeros(1).expand(1 << 20, 1 << 18)
    with pytest.raises(ValueError, match="has no room"):
        read_torch_file(zipped(tmp_path, {"x": expanded}))


def test_views_outside_of_their_storage_are_refused(tmp_path):
    tensor = torch.zeros(9)[2:5]  # offset 2, size 3
    path = rewritten(zipped(tmp_path, {"x": tensor}), lambda data: data.replace(b"K\x02", b"K\x07", 1))
    with pytest.raises(ValueError, match="has no room"):
        read_torch_file(path)


class Calls:
    """Pickles as the call of any function with any arguments."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self):
        return (self.function, self.arguments) if self.state is None else (self.function, self.arguments, self.state)


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def text_2(value: str) -> bytes:
    """The same in protocol 2."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def stacked(module: str, name: str, argument: bytes) -> bytes:
    """Protocol 4: STACK_GLOBAL of a name, called with one argument."""
    return b"\x80\x04" + text(module) + text(name) + b"\x93" + argument + b"\x85R."


def old(module: str, name: str, argument: bytes) -> bytes:
    """Protocol 0: GLOBAL of a name, called with one argument."""
    return f"c{module}\n{name}\n".encode() + argument + b"\x85R."


class SetState:
    """A class of the attacker, importable where this test runs, whose state is its weapon."""

    def __setstate__(self, state):
        open(state["path"], "w").close()


def _touch(path):
    return f"touch {path}"


# Each takes the path of a file that running the pickle would create.
HOSTILE = {
    "os.system": lambda path: old("os", "system", text(_touch(path))),
    "posix.system": lambda path: stacked("posix", "system", text(_touch(path))),
    "builtins.eval": lambda path: pickle.dumps(Calls(eval, f"open({path!r}, 'w').close()")),
    "builtins.exec": lambda path: pickle.dumps(Calls(exec, f"open({path!r}, 'w').close()"), 2),
    "builtins.open": lambda path: pickle.dumps(Calls(open, path, "w")),
    "builtins.getattr": lambda path: b"\x80\x04" + text("builtins") + text("getattr") + b"\x93NN\x86R.",
    "builtins.__import__": lambda path: pickle.dumps(Calls(__import__, "antigravity")),
    "nested reduce": lambda path: pickle.dumps(
        {"model": {"weight": [1, (2, {"x": Calls(exec, f"open({path!r},'w')")})]}}
    ),
    "subprocess.Popen": lambda path: pickle.dumps(Calls(subprocess.Popen, ["touch", path])),
    "setstate": lambda path: (lambda thing: (thing.__dict__.update(path=path), pickle.dumps(thing))[1])(SetState()),
    "dotted name": lambda path: stacked("collections", "OrderedDict.fromkeys.__self__", text(_touch(path))),
    "dotted module": lambda path: stacked("builtins.dict", "__subclasses__", text(_touch(path))),
    "copyreg": lambda path: pickle.dumps(Calls(copyreg._reconstructor, SetState, object, None, state={"path": path})),
    "numpy objects": lambda path: pickle.dumps(np.array([Calls(exec, f"open({path!r},'w')")], dtype=object)),
    "torch.load": lambda path: stacked("torch", "load", text(path)),
    "functools.partial": lambda path: pickle.dumps(Calls(functools.partial, open, path, "w")),
    "types.FunctionType": lambda path: stacked("types", "FunctionType", text(path)),
    "runpy": lambda path: stacked("runpy", "run_path", text(path)),
    "INST": lambda path: b"(S'" + _touch(path).encode() + b"'\nios\nsystem\n.",
    "OBJ": lambda path: b"(cos\nsystem\nS'" + _touch(path).encode() + b"'\no.",
    "NEWOBJ": lambda path: b"\x80\x02csubprocess\nPopen\n" + text(_touch(path)) + b"\x85\x81.",
    "persistent id": lambda path: b"Pos.system\n.",
    "state of a function": lambda path: b"\x80\x02c_codecs\nencode\nN}" + text("__defaults__") + b"Ks\x86b.",
    "state of a class": lambda path: b"\x80\x02ccollections\nOrderedDict\nN}" + text("update") + b"K\x01s\x86b.",
}


def with_pickle(path, data, legacy):
    """A file of torch whose pickle is this one."""
    torch.save({}, path, _use_new_zipfile_serialization=not legacy)
    if legacy:
        whole, plain = path.read_bytes(), pickle.dumps({}, 2)
        assert whole.count(plain) == 1
        path.write_bytes(whole.replace(plain, data))
    else:
        rewritten(path, lambda _: data)
    return path


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_of_a_hostile_pickle_is_run(kind, legacy, tmp_path):
    sentinel = tmp_path / "sentinel"
    path = with_pickle(tmp_path / "file.pth", HOSTILE[kind](str(sentinel)), legacy)
    with pytest.raises(ValueError, match="is refused and nothing in it was run") as error:
        read_torch_file(path)
    assert str(error.value).isprintable()
    assert "weights_only" not in str(error.value)
    assert not sentinel.exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("kind", ["builtins.open", "subprocess.Popen", "setstate", "posix.system"])
def test_the_sentinel_would_tell(kind, tmp_path):
    """The same bytes under the ordinary unpickler do what they say: the test above is not empty."""
    sentinel = tmp_path / "sentinel"
    loaded = pickle.loads(HOSTILE[kind](str(sentinel)))
    if kind == "subprocess.Popen":
        loaded.wait()
    assert sentinel.exists()


def test_classes_by_number_are_refused_even_when_already_looked_up(tmp_path):
    sentinel = tmp_path / "sentinel"
    copyreg.add_extension("builtins", "exec", 240)
    try:
        data = pickle.dumps(Calls(exec, f"open({str(sentinel)!r}, 'w').close()"), 2)
        assert b"\x82\xf0" in data
        pickle.loads(data)
        assert sentinel.exists()
        sentinel.unlink()
        with pytest.raises(ValueError, match="nothing in it was run"):
            read_torch_file(with_pickle(tmp_path / "file.pth", data, legacy=False))
        assert not sentinel.exists()
    finally:
        copyreg.remove_extension("builtins", "exec", 240)
        copyreg.clear_extension_cache()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"a": 1}, 2)[:-3],
        b"\x80\x02X" + struct.pack("<I", (1 << 32) - 1) + b"x.",  # claims four gigabytes of text
        b"\x80\x02ctorch\nTensor\n\x8a\x06" + (1 << 44).to_bytes(6, "little") + b"\x85R.",
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x07" + (1 << 50).to_bytes(7, "little") + b"\x85R.",
        b"(" * 1000 + b".",
    ],
)
def test_absurd_claims_of_a_pickle_are_refused(data, legacy, tmp_path):
    with pytest.raises(ValueError, match="is refused"):
        read_torch_file(with_pickle(tmp_path / "file.pth", data, legacy))


def test_what_hangs_on_an_object_beside_its_items_is_taken_off(tmp_path):
    """A pickle may give an ordered dictionary attributes of any name, its methods' names too."""
    data = b"\x80\x02ccollections\nOrderedDict\n)R}" + text_2("items") + b"K\x01s" + b"b."
    found = read_torch_file(with_pickle(tmp_path / "file.pth", data, legacy=False))
    assert list(found.items()) == []


def test_absurd_sizes_in_the_old_format_are_refused(tmp_path):
    torch.save({"x": torch.zeros(100)}, tmp_path / "file.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "file.pth").read_bytes()
    for claimed in (b"J" + struct.pack("<i", 2**31 - 1), b"K\x63", b"\x8a\x06" + (1 << 44).to_bytes(6, "little")):
        (tmp_path / "file.pth").write_bytes(whole.replace(b"K\x64", claimed))
        with pytest.raises(ValueError, match="is refused"):
            read_torch_file(tmp_path / "file.pth")
