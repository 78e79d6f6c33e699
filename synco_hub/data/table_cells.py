"""What a cell of a table holds: an encoded image, the path of one, or a mapping with either."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synco_hub.data.decoding import UnreadableImageError


def name_cell(cell: Any, index: int) -> str:
    """How reports name a row: its file name with the row, or the row alone."""
    path = find_cell_path(cell)
    return f"{path} (row {index})" if path else f"row {index}"


def find_cell_path(cell: Any) -> str | None:
    """The file name of a cell, if it has one."""
    return cell.get("path") if isinstance(cell, Mapping) else cell if isinstance(cell, str) else None


def find_relative_path(cell: Any) -> str | None:
    """The path of an image that is not in its cell, unless it is absolute."""
    path = None if isinstance(cell, Mapping) and cell.get("bytes") else find_cell_path(cell)
    return None if path is None or os.path.isabs(path) else path


def place_cell(cell: Any, folders: Sequence[str]) -> Any:
    """A cell whose relative path, if it has one, begins at the first of the folders that has such a file."""
    path = find_relative_path(cell)
    places = () if path is None else (os.path.join(folder, path) for folder in folders)
    return next((place for place in places if os.path.exists(place)), cell)


def read_cell_bytes(cell: Any, name: str) -> bytes:
    """The encoded image of a cell: bytes, a path, or a mapping with either; `name` is for the error of any other."""
    stored = cell.get("bytes") or cell.get("path") if isinstance(cell, Mapping) else cell
    if not stored:
        raise UnreadableImageError(name, "the cell is empty")
    if isinstance(stored, bytes):
        return stored
    if not isinstance(stored, str):
        raise UnreadableImageError(name, f"the cell holds {type(stored).__name__}, not an encoded image")
    try:
        return Path(stored).read_bytes()
    except OSError as error:
        raise UnreadableImageError(name, error.strerror or str(error)) from error


def list_cell_paths(chunk: Any) -> list[str | None]:
    """File names of a chunk of cells; the struct's other field, the bytes, is not touched."""
    struct = getattr(chunk, "storage", chunk)
    try:
        paths: list[str | None] = struct.field("path").to_pylist()
    except (AttributeError, KeyError):
        return []
    return paths
