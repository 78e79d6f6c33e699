"""What `torch.save` wrote, read as plain data: no code of the file is run, and tensors are read when they are wanted.

`torch.load(weights_only=True)` refuses the configurations that many checkpoints carry (yacs, argparse) and reads
everything, the optimizer's state too. Here the table of allowed names is shorter than torch's own, configurations
become dictionaries, and a tensor is a description until its bytes are asked for.
"""

from __future__ import annotations

import functools
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from synco_hub.hub.conversion.stored_tensor import CLASSES, StoredStorage, check_bytes, storage_identifier
from synco_hub.restricted_unpickler import load_plain

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def read_torch_file(path: Path) -> Any:
    """Read a file of `torch.save`, of the zip format or the older one.

    Args:
        path: The file.

    Returns:
        Plain data; tensors are `StoredTensor`.

    Raises:
        ValueError: If it is neither, names code, is damaged, or claims more than it holds.
    """
    with _damage_told(path):
        zipped = zipfile.is_zipfile(path)
    if zipped:
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


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Within this context whatever the zip library says about forged or damaged bytes becomes a `ValueError`."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OverflowError, struct.error) as error:
        raise ValueError(f"{path} is a damaged zip file ({error}): download it again.") from error


def _read_zip(path: Path) -> Any:
    with _damage_told(path), zipfile.ZipFile(path) as archive:
        entries = _checked_entries(path, archive)
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError(f"{path} is a zip file, but none that torch.save wrote: it has no data.pkl.")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise ValueError(f"{path} was written on a big-endian computer: save it anew on a usual one.")
        data = archive.read(pickles[0])

    @functools.lru_cache(maxsize=2)
    def read(name: str) -> bytes:
        with _damage_told(path), zipfile.ZipFile(path) as archive:
            return archive.read(name)

    def storage(identifier: Any) -> StoredStorage:
        dtype, key, numel = storage_identifier(identifier)
        name = f"{root}data/{key}"
        if name not in entries:
            raise ValueError(f"it refers to a storage {key!r} that is not in the file")
        check_bytes(key, dtype, numel, entries[name])
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
        dtype, key, numel = storage_identifier(identifier)
        check_bytes(key, dtype, numel, None, path.stat().st_size)
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
