"""What `torch.save` wrote, read as tensors and plain data: no code of the file is run.

`torch.load(weights_only=True)` does the reading. Around it stand what it lacks against hostile files: a look at the
zip file's entries before, stand-ins for the configurations that many checkpoints carry, a look at the tensors after.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Set
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from synco_hub.errors import escape
from synco_hub.safe_pickle import NUMPY_STAND_INS

_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_LONGEST_REASON = 300
_REMEDY = "Only plain data and tensors are read; if you trust its author, ask for a file without code (.safetensors)."


class _Namespace(dict[str, Any]):
    """What takes the attributes of a namespace as items."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state)


def _path_text(*parts: Any) -> str:
    return str(PurePosixPath(*map(str, parts)))


# torch fills no other dictionaries than its own: an OrderedDict, and not a class derived from one.
_STAND_INS: list[Any] = [
    *((OrderedDict, name) for name in ("yacs.config.CfgNode", "easydict.EasyDict", "builtins.dict")),
    *((_Namespace, name) for name in ("argparse.Namespace", "types.SimpleNamespace")),
    # Numbers of numpy beside the weights, such as the best accuracy; read as in `synco_hub.safe_pickle`.
    *((stand_in, name) for name, stand_in in NUMPY_STAND_INS.items()),
    *((_path_text, f"pathlib.{name}") for name in ("PosixPath", "WindowsPath", "_local.PosixPath")),
]


def read_torch_file(path: Path) -> Any:
    """Read a file of `torch.save`, of the zip format or the older one."""
    sizes = _checked_sizes(path)
    try:
        with torch.serialization.safe_globals(_STAND_INS), path.open("rb") as stream:
            # By its name torch would take a path that ends so for another format.
            mapped = sizes is not None and path.suffix != ".safetensors"
            content = torch.load(path if mapped else stream, map_location="cpu", weights_only=True, mmap=mapped)
        _check_content(content, sizes)
    except Exception as error:  # a hostile file can provoke any kind of error
        raise ValueError(f"{path} is refused and nothing in it was run: {_reason(error)}. {_REMEDY}") from error
    return content


def _checked_sizes(path: Path) -> Set[int] | None:
    """The sizes in bytes that storages of a zip file can have; None for the older format."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return set(_checked_entries(path, archive).values())
    except ValueError:
        raise
    except Exception as error:  # whatever the zip library says about forged or damaged bytes
        raise ValueError(f"{path} is a damaged zip file ({error}): download it again.") from error
    with path.open("rb") as stream:
        start = stream.read(512)
    if start.startswith(b"PK\x03\x04"):
        raise ValueError(f"{path} begins as a zip file of torch.save and its end is missing: download it again.")
    if start[257:262] == b"ustar":
        raise ValueError(
            f"{path} has the format of torch before 0.1.10 (tar), which is not read: open it with an old torch and "
            "save its tensors as .safetensors."
        )
    if not start.startswith(_LEGACY_START):
        raise ValueError(
            f"{path} is refused, it is no checkpoint of torch: give a whole file of torch.save or .safetensors."
        )
    return None


def _checked_entries(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Size in bytes of every entry; torch neither compresses nor repeats, so whoever does wants to fill our memory."""
    entries: dict[str, int] = {}
    if any("/code/" in name for name in archive.namelist()):
        raise ValueError(f"{path} is a TorchScript program, not a checkpoint: give the file with its weights.")
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise ValueError(
                f"{path}: the entry {escape(repr(entry.filename))} is compressed or encrypted, which torch.save never "
                "does: the file is refused. If it is a zip file around a checkpoint, unpack it first."
            )
        if entry.filename in entries:
            raise ValueError(f"{path} holds the entry {escape(repr(entry.filename))} twice: the file is refused.")
        entries[entry.filename] = entry.file_size
    if sum(entries.values()) > path.stat().st_size:
        raise ValueError(f"{path} claims {sum(entries.values())} bytes of content, more than it is long: refused.")
    if not any(name.endswith("/data.pkl") and name.count("/") == 1 for name in entries):
        raise ValueError(f"{path} is a zip file, but none that torch.save wrote: it has no data.pkl.")
    if damaged := archive.testzip():
        raise ValueError(f"{path} is a damaged zip file ({escape(damaged)} has changed): download it again.")
    return entries


def _check_content(content: Any, sizes: Set[int] | None) -> None:
    """Check every tensor inside nested data, and take off what a pickle has hung on objects beside their contents."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (Tensor, OrderedDict)):
            vars(item).clear()
        if isinstance(item, Tensor):
            _check_tensor(item, sizes)
            item.requires_grad_(False)
        elif isinstance(item, (dict, list, tuple, set)):
            waiting.extend(item.values() if isinstance(item, dict) else item)


def _check_tensor(tensor: Tensor, sizes: Set[int] | None) -> None:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.dtype in _DTYPES
    if not plain or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ValueError(f"it holds a {type(tensor).__name__} of {tensor.dtype}, {tensor.layout}, {tensor.device}")
    there = tensor.untyped_storage().nbytes()
    if sizes is not None and there not in sizes:
        raise ValueError(f"it claims a storage of {there} bytes, and the file has none of that size")
    # An expanded tensor has few bytes in the file and any number in memory.
    if (due := tensor.numel() * tensor.element_size()) > there:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} needs {due} bytes and has no room in its {there}")


def _reason(error: Exception) -> str:
    """What torch says, in one line and without its advice to run the file's code."""
    said = str(error).rpartition("WeightsUnpickler error: ")[2].partition("Check the documentation of torch.load")[0]
    if named := re.search(r"GLOBAL (.+?) (?:was not an allowed|whose module)", said, re.DOTALL):
        return f"it names {escape(named[1])}, which is neither data nor a known class"
    if "resize storage" in said:  # which torch does for a tensor that is larger than its storage
        return "it describes a tensor which has no room in the storage that the file has for it"
    return escape(" ".join(said.split()).rstrip("."), _LONGEST_REASON) or type(error).__name__
