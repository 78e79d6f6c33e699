"""Reads MATLAB files of level 5: numbers, text, cells and structs, which is what the lists of image sets are.

Nothing of the format is executed, and a size that the file cannot hold is refused before memory is taken for it:
`scipy.io.loadmat` ends the process (a segmentation fault, scipy 1.17) on two to four of a hundred damaged files.

Source: "MAT-File Format", The MathWorks, section "Level 5 MAT-File Format".
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _FIRST_NUMERIC, _LAST_NUMERIC = 1, 2, 4, 6, 15
_LARGEST = 1 << 28
_DEEPEST = 16


def read_matlab_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads every variable.

    Args:
        path: A file of level 5, as `save` of MATLAB writes unless `-v7.3` is given.

    Returns:
        By name: a number array as numpy array, text as str, a cell array as a flat list, a struct array as a flat
        list of dicts.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another kind.
    """
    data = Path(path).read_bytes()
    try:
        if len(data) < 128 or data[126:128] not in (b"IM", b"MI"):
            raise ValueError("no header of a level 5 file")
        reader = _Reader("<" if data[126:128] == b"IM" else ">")
        return dict(reader.variables(data[128:]))
    except (ValueError, struct.error, zlib.error, UnicodeDecodeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a readable MATLAB file ({error}); unpack the original archive again."
        ) from error


class _Reader:
    """Reads elements of one byte order: `<` or `>`."""

    def __init__(self, order: str) -> None:
        self.order = order

    def variables(self, data: bytes) -> list[tuple[str, Any]]:
        """Name and value of each variable."""
        found = []
        for kind, content in self._elements(data):
            if kind == _COMPRESSED:
                found += self.variables(_inflated(content))
            elif kind == _MATRIX and content:
                found.append(self._matrix(content, 0))
        return found

    def _elements(self, data: bytes) -> list[tuple[int, bytes]]:
        """Type and content of each element, of the long form and of the short one that has both in eight bytes."""
        found, position = [], 0
        while position + 8 <= len(data):
            kind, size = struct.unpack_from(f"{self.order}II", data, position)
            if kind >> 16:
                kind, size, start, step = kind & 0xFFFF, kind >> 16, position + 4, 8
            else:
                start = position + 8
                # Compressed elements alone are not filled up to eight bytes.
                step = 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
            if start + size > len(data):
                raise ValueError(f"an element of {size} bytes where {len(data) - start} are left")
            found.append((kind, data[start : start + size]))
            position += step
        return found

    def _matrix(self, data: bytes, depth: int) -> tuple[str, Any]:
        if depth > _DEEPEST:
            raise ValueError(f"arrays nested more than {_DEEPEST} times")
        elements = self._elements(data)
        kind = struct.unpack_from(f"{self.order}I", elements[0][1])[0] & 0xFF
        shape = np.frombuffer(elements[1][1], f"{self.order}i4").tolist()
        name = elements[2][1].decode("latin1")
        count = int(np.prod(shape, dtype=np.int64))
        if not 0 <= count <= _LARGEST:
            raise ValueError(f"an array of shape {shape}")
        rest = elements[3:]
        if kind == _CELL:
            return name, [self._matrix(content, depth + 1)[1] for _, content in rest]
        if kind == _STRUCT:
            return name, self._structs(rest, count, depth)
        if kind == _CHAR:
            return name, rest[0][1].decode(_text_encoding(rest[0][0], self.order)) if rest else ""
        if not _FIRST_NUMERIC <= kind <= _LAST_NUMERIC or not rest:
            raise ValueError(f"an array of class {kind}, which no list of images has")
        return name, self._numbers(*rest[0], shape)

    def _numbers(self, kind: int, content: bytes, shape: list[int]) -> npt.NDArray[Any]:
        values = np.frombuffer(content, self.order + _NUMBERS[kind])
        return values.reshape(shape, order="F").astype(values.dtype.newbyteorder("="))

    def _structs(self, rest: list[tuple[int, bytes]], count: int, depth: int) -> list[dict[str, Any]]:
        width = struct.unpack_from(f"{self.order}i", rest[0][1])[0]
        names_block = rest[1][1]
        starts = range(0, len(names_block), width)
        names = [names_block[start : start + width].split(b"\0")[0].decode("latin1") for start in starts]
        values = [self._matrix(content, depth + 1)[1] if content else None for _, content in rest[2:]]
        if len(values) != count * len(names):
            raise ValueError(f"{len(values)} fields in {count} structs of {len(names)}")
        rows = [values[start : start + len(names)] for start in range(0, len(values), len(names))] if names else []
        return [dict(zip(names, row, strict=True)) for row in rows]


def _text_encoding(kind: int, order: str) -> str:
    encoding = _TEXTS[kind]
    return encoding if encoding in ("latin1", "utf-8") else f"{encoding}-{'le' if order == '<' else 'be'}"


def _inflated(content: bytes) -> bytes:
    inflater = zlib.decompressobj()
    data = inflater.decompress(content, _LARGEST)
    if inflater.unconsumed_tail:
        raise ValueError(f"more than {_LARGEST} bytes when inflated")
    return data
