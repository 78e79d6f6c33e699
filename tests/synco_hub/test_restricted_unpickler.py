import argparse
import collections
import copyreg
import functools
import io
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from foreign_checkpoints import yacs

from synco_hub.restricted_unpickler import PLAIN_CLASSES, PlainMapping, PlainOrdered, RestrictedUnpickler, load_plain


class Calls:
    """Pickles as the call of any function with any arguments."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self):
        return (self.function, self.arguments) if self.state is None else (self.function, self.arguments, self.state)


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


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


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_of_a_hostile_pickle_is_run(kind, tmp_path):
    sentinel = tmp_path / "sentinel"
    data = HOSTILE[kind](str(sentinel))
    with pytest.raises(ValueError, match="is refused and nothing in it was run") as error:
        load_plain(data, origin="file.pth")
    assert str(error.value).startswith("file.pth")
    assert "\n" not in str(error.value)
    assert not sentinel.exists()
    assert "antigravity" not in sys.modules


def test_the_sentinel_would_tell(tmp_path):
    """The same bytes under the ordinary unpickler do what they say: the test above is not empty."""
    for kind in ("builtins.open", "subprocess.Popen", "setstate", "posix.system"):
        sentinel = tmp_path / kind.replace(".", "_")
        loaded = pickle.loads(HOSTILE[kind](str(sentinel)))
        if kind == "subprocess.Popen":
            loaded.wait()
        assert sentinel.exists(), kind


def test_classes_by_number_are_refused_even_when_already_looked_up(tmp_path):
    sentinel = tmp_path / "sentinel"
    copyreg.add_extension("builtins", "exec", 240)
    try:
        data = pickle.dumps(Calls(exec, f"open({str(sentinel)!r}, 'w').close()"), 2)
        assert b"\x82\xf0" in data
        pickle.loads(data)
        assert sentinel.exists()
        sentinel.unlink()
        with pytest.raises(ValueError, match="by the number 240"):
            load_plain(data)
        assert not sentinel.exists()
    finally:
        copyreg.remove_extension("builtins", "exec", 240)
        copyreg.clear_extension_cache()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"a": 1})[:-3],
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",  # claims a terabyte of bytes
        b"\x80\x02]r" + struct.pack("<I", (1 << 31) - 1) + b".",  # remembers object two thousand million
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"N.",
        b"(" * 1000 + b".",
    ],
)
def test_damage_and_absurd_claims_are_refused(data):
    with pytest.raises(ValueError, match="is refused"):
        load_plain(data)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_through_equal(protocol):
    data = {
        "text": "zoë",
        "numbers": [1, -2.5, 1 << 70, True, None],
        "nested": ({"a", "b"}, frozenset({3}), b"\x00\xff", ()),
        "ordered": collections.OrderedDict([("x", 1), ("y", 2)]),
    }
    data["ordered"]._metadata = {"version": 1}
    loaded = load_plain(pickle.dumps(data, protocol))
    assert loaded == data
    assert list(loaded["ordered"]) == ["x", "y"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_configurations_become_mappings_without_their_class(protocol):
    config = yacs({"MODEL": {"TYPE": "synco", "DEPTHS": [2, 2]}, "LR": 0.1})
    data = pickle.dumps({"config": config, "args": argparse.Namespace(arch="vit", lr=1)}, protocol)
    with pytest.raises(ValueError, match=r"names yacs.config.CfgNode|names argparse.Namespace"):
        load_plain(data)
    loaded = load_plain(data, {"yacs.config.CfgNode": PlainMapping, "argparse.Namespace": PlainMapping})
    assert loaded == {
        "config": {"MODEL": {"TYPE": "synco", "DEPTHS": [2, 2]}, "LR": 0.1},
        "args": {"arch": "vit", "lr": 1},
    }
    assert type(loaded["config"]["MODEL"]) is PlainMapping


def test_the_stream_is_left_behind_the_pickle_and_references_are_the_callers():
    stream = io.BytesIO(pickle.dumps([1]) + b"Pweights\n." + b"rest")
    assert load_plain(stream) == [1]
    assert load_plain(stream, persistent=lambda identifier: ("kept elsewhere", identifier)) == (
        "kept elsewhere",
        "weights",
    )
    assert stream.read() == b"rest"


def test_functions_of_the_caller_are_called_and_cannot_be_changed():
    def pair(first, second=None):
        return first, second

    data = b"\x80\x02cany\nthing\n" + text("a") + b"\x85R."
    assert load_plain(data, {"any.thing": pair}) == ("a", None)
    changed = b"\x80\x02cany\nthing\nN}" + text("__defaults__") + b"(K\x01ts\x86b."
    with pytest.raises(ValueError, match="refused"):
        load_plain(changed, {"any.thing": pair})
    assert pair.__defaults__ == (None,)


def test_no_name_of_the_table_reaches_code():
    """Every allowed class is a plain container: calling it with anything creates data only."""
    assert {value for value in PLAIN_CLASSES.values() if isinstance(value, type)} == {
        PlainMapping,
        PlainOrdered,
        list,
        set,
        frozenset,
    }
    assert RestrictedUnpickler(io.BytesIO(b"N."), {}).load() is None
