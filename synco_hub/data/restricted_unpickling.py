"""Reads pickles of arrays from strangers: whatever else a pickle asks for is refused before it is made."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

# What Python 2 and 3 write for numpy arrays in dicts and lists; both homes of numpy's function, old and new.
ADMITTED = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
    }
)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays, dicts, lists and text may be")
        return super().find_class(module, name)


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """How protocol 2 spells bytes; the real function would take any codec."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes {type(text).__name__} as {encoding!r}, where bytes are latin1 text")
    return text.encode("latin1")


def read_pickled_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a dict of arrays, lists and text.

    Args:
        path: A pickle, such as a batch of CIFAR-10. Keys that Python 2 wrote as bytes become text.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds no dict, or asks for anything but arrays and plain values.
    """
    data = Path(path).read_bytes()
    try:
        # numpy arrays of Python 2 can only be read as latin1.
        content = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path}: it is no pickle of plain arrays ({type(error).__name__}: {error}); unpack the original archive "
            "again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it holds {type(content).__name__}, not a dict; unpack the original archive again.")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
