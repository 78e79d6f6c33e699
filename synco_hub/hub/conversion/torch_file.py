"""What `torch.save` wrote, read as plain data: no code of the file is run, and tensors are read when they are wanted.

`torch.load(weights_only=True)` refuses the configurations that many checkpoints carry (yacs, argparse) and reads
everything, the optimizer's state too. Here the table of allowed names is shorter than torch's own, configurations
become dictionaries, and a tensor is a description until its bytes are asked for. Every claim of a size is checked
against the file before memory is taken.
"""

from __future__ import annotations

import functools
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synco_hub.restricted_unpickler import PlainMapping, load_plain

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DIMENSIONS = 16

# The type of a storage, as a pickle names it, to the name of a dtype of torch.
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}


class StoredStorage(NamedTuple):
    """A run of numbers in the file.

    Attributes:
        read: Gives its bytes.
        dtype: Name of the dtype.
        numel: How many numbers.
    """

    read: Callable[[], bytes]
    dtype: str
    numel: int


class StoredTensor(NamedTuple):
    """A tensor in the file: which numbers of which storage.

    A named tuple, because nothing in a pickle can change one after it was checked.

    Attributes:
        storage: Where its numbers are.
        offset: Index of the first.
        shape: Its shape.
        stride: Steps in the storage, in numbers, along each dimension.
    """

    storage: StoredStorage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        """Read it.

        Raises:
            ValueError: If its bytes are not in the file, or damaged.
        """
        dtype = getattr(torch, self.storage.dtype)
        data = self.storage.read()
        if len(data) != self.storage.numel * dtype.itemsize:
            raise ValueError(
                f"a storage has {len(data)} bytes in the file, but {self.storage.numel} numbers of {dtype} are due: "
                "the file is damaged or forged, download it again."
            )
        if not data:
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(bytearray(data), dtype=dtype).as_strided(self.shape, self.stride, self.offset).clone()


def read_torch_file(path: Path) -> Any:
    """Read a file of `torch.save`, of the zip format or the older one.

    Args:
        path: The file.

    Returns:
        Plain data; tensors are `StoredTensor`.

    Raises:
        ValueError: If it is neither, names code, is damaged, or claims more than it holds.
    """
    if zipfile.is_zipfile(path):
        return _read_zip(path)
    with path.open("rb") as stream:
        start = stream.read(512)
    if start.startswith(b"PK\x03\x04"):
        raise ValueError(f"{path} begins as a zip file of torch.save and its end is missing: download it again.")
    if start[257:262] == b"ustar":
        raise ValueError(
            f"{path} has the format of torch before 0.1.10 (tar), which is not read: open it with an old torch and "
            "save its tensors as .safetensors."
        )
    return _read_legacy(path)


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _checked_entries(path, archive)
            pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(pickles) != 1:
                raise ValueError(f"{path} is a zip file, but none that torch.save wrote: it has no data.pkl.")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
                raise ValueError(f"{path} was written on a big-endian computer: save it anew on a usual one.")
            data = archive.read(pickles[0])
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is a damaged zip file ({error}): download it again.") from error

    @functools.lru_cache(maxsize=2)
    def read(name: str) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}): download it again.") from error

    def storage(identifier: Any) -> StoredStorage:
        dtype, key, numel = _storage_identifier(identifier)
        name = f"{root}data/{key}"
        if name not in entries:
            raise ValueError(f"it refers to a storage {key!r} that is not in the file")
        _check_bytes(key, dtype, numel, entries[name])
        return StoredStorage(functools.partial(read, name), dtype, numel)

    return load_plain(data, CLASSES, persistent=storage, origin=str(path))


def _checked_entries(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Size in bytes of every entry; torch neither compresses nor repeats, so whoever does wants to fill our memory."""
    entries: dict[str, int] = {}
    if any("/code/" in name for name in archive.namelist()):
        raise ValueError(f"{path} is a TorchScript program, not a checkpoint: give the file with its weights.")
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise ValueError(
                f"{path}: the entry {entry.filename!r} is compressed or encrypted, which torch.save never does: the "
                "file is refused. If it is a zip file around a checkpoint, unpack it and give the checkpoint."
            )
        if entry.filename in entries:
            raise ValueError(f"{path} holds the entry {entry.filename!r} twice: the file is refused.")
        entries[entry.filename] = entry.file_size
    if sum(entries.values()) > path.stat().st_size:
        raise ValueError(f"{path} claims {sum(entries.values())} bytes of content, more than it is long: refused.")
    return entries


def _read_legacy(path: Path) -> Any:
    """The format before torch 1.6: pickles of a magic number, the object and the storages' names, then the bytes."""
    places: dict[str, tuple[int, int]] = {}
    storages: dict[str, StoredStorage] = {}

    def read(key: str) -> bytes:
        position, length = places[key]
        with path.open("rb") as stream:
            stream.seek(position)
            return stream.read(length)

    def storage(identifier: Any) -> StoredStorage:
        if isinstance(identifier, tuple) and len(identifier) == 6 and identifier[5] is None:
            identifier = identifier[:5]
        dtype, key, numel = _storage_identifier(identifier)
        _check_bytes(key, dtype, numel, None, path.stat().st_size)
        found = storages.setdefault(key, StoredStorage(functools.partial(read, key), dtype, numel))
        if (found.dtype, found.numel) != (dtype, numel):
            raise ValueError(f"it describes the storage {key!r} in two ways")
        return found

    origin = str(path)
    with path.open("rb") as stream:
        if load_plain(stream, origin=origin) != _LEGACY_MAGIC:
            raise ValueError(
                f"{path} is a pickle, but no checkpoint of torch: give a file of torch.save or .safetensors."
            )
        if load_plain(stream, origin=origin) != _LEGACY_PROTOCOL:
            raise ValueError(f"{path} has an unknown version of torch's old format: save it anew with torch 1.6 on.")
        if not load_plain(stream, origin=origin).get("little_endian", False):
            raise ValueError(f"{path} was written on a big-endian computer: save it anew on a usual one.")
        content = load_plain(stream, CLASSES, persistent=storage, origin=origin)
        for key in load_plain(stream, origin=origin):
            places[str(key)] = _legacy_place(path, stream, storages.get(str(key)))
    if lacking := sorted(set(storages) - set(places)):
        raise ValueError(f"{path} lacks {len(lacking)} of its storages (first: {lacking[:3]}): download it again.")
    return content


def _legacy_place(path: Path, stream: Any, storage: StoredStorage | None) -> tuple[int, int]:
    """Position and length in bytes of the next storage; the stream is moved behind it."""
    counted = stream.read(8)
    numel = struct.unpack("<q", counted)[0] if len(counted) == 8 else -1
    if storage is None or numel != storage.numel:
        raise ValueError(f"{path}: a storage of {numel} numbers is not what was described: the file is damaged.")
    position, length = stream.tell(), numel * getattr(torch, storage.dtype).itemsize
    if position + length > path.stat().st_size:
        raise ValueError(f"{path} ends in the middle of a storage: download it again.")
    stream.seek(length, 1)
    return position, length


def _storage_identifier(identifier: Any) -> tuple[str, str, int]:
    """Dtype, key and count of what torch writes for a storage: ('storage', type, key, device, numel)."""
    if not (isinstance(identifier, tuple) and len(identifier) == 5 and identifier[0] == "storage"):
        raise ValueError("it refers to something that is no storage of a tensor")
    _, dtype, key, _, numel = identifier
    if dtype not in _STORAGES.values() or not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
        raise ValueError(f"it describes a storage by {(dtype, key, numel)!r}")
    return dtype, key, numel


def _check_bytes(key: str, dtype: str, numel: int, found: int | None, at_most: int = 0) -> None:
    due = numel * getattr(torch, dtype).itemsize
    if (found is not None and due != found) or (found is None and due > at_most):
        raise ValueError(
            f"it claims {numel} numbers of {dtype} ({due} bytes) in the storage {key!r}, where the file has "
            f"{at_most if found is None else found} bytes"
        )


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> StoredTensor:
    """What torch's `_rebuild_tensor_v2` would build."""
    if not isinstance(storage, StoredStorage):
        raise ValueError("it builds a tensor of something that is no storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"it describes a tensor by offset {offset!r}, size {size!r}, stride {stride!r}")
    # An expanded tensor has few bytes in the file and any number in memory.
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if math.prod(size) else -1
    if math.prod(size) > storage.numel or last >= storage.numel:
        raise ValueError(
            f"it describes a tensor of shape {tuple(size)} in a storage of {storage.numel} numbers, which has no room"
        )
    return StoredTensor(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _shape(numbers: Any = ()) -> tuple[int, ...]:
    return tuple(numbers)


def _path(*parts: Any) -> str:
    return str(PurePosixPath(*map(str, parts)))


# Everything that a checkpoint may name. Configurations keep their items and lose their class.
CLASSES: dict[str, Any] = {
    **_STORAGES,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _shape,
    "torch.device": _path,
    "pathlib.PosixPath": _path,
    "pathlib.WindowsPath": _path,
    "pathlib._local.PosixPath": _path,
    "yacs.config.CfgNode": PlainMapping,
    "argparse.Namespace": PlainMapping,
    "types.SimpleNamespace": PlainMapping,
    "easydict.EasyDict": PlainMapping,
}
