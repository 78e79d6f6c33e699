"""A tensor that still lies in a file of torch: where its numbers are, and what a pickle may say to describe it.

Every claim of a size is checked against the file before memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synco_hub.restricted_unpickler import PlainMapping

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


def storage_identifier(identifier: Any) -> tuple[str, str, int]:
    """Dtype, key and count of what torch writes for a storage: ('storage', type, key, device, numel)."""
    if not (isinstance(identifier, tuple) and len(identifier) == 5 and identifier[0] == "storage"):
        raise ValueError("it refers to something that is no storage of a tensor")
    _, dtype, key, _, numel = identifier
    if dtype not in _STORAGES.values() or not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
        raise ValueError(f"it describes a storage by {(dtype, key, numel)!r}")
    return dtype, key, numel


def check_bytes(key: str, dtype: str, numel: int, found: int | None, at_most: int = 0) -> None:
    """Compare what a storage claims with what the file has for it.

    Args:
        key: Name of the storage.
        dtype: Name of its dtype.
        numel: How many numbers it claims.
        found: Bytes that the file has for it; None where that is not known yet.
        at_most: Bytes of the whole file, for that case.

    Raises:
        ValueError: If it claims others, or more.
    """
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
