"""What a table holds in place of an image: encoded bytes, or a mapping with them or with the path of a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synco_hub.data.decoding import UnreadableImageError


def cell_name(cell: Any, index: int) -> str:
    """How reports name a row: its file name with the row, or the row alone."""
    path = cell_path(cell)
    return f"{path} (row {index})" if path else f"row {index}"


def cell_path(cell: Any) -> str | None:
    """The file name of a cell, if it has one."""
    return cell.get("path") if isinstance(cell, Mapping) else None


def cell_bytes(cell: Any, index: int) -> bytes:
    """The encoded image of a cell.

    Raises:
        UnreadableImageError: If there is none, or its file cannot be read.
    """
    name = cell_name(cell, index)
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, Mapping):
        raise UnreadableImageError(name, f"the cell holds {type(cell).__name__}, not an encoded image")
    if cell.get("bytes"):
        return bytes(cell["bytes"])
    if not cell.get("path"):
        raise UnreadableImageError(name, "the cell is empty")
    try:
        return Path(cell["path"]).read_bytes()
    except OSError as error:
        raise UnreadableImageError(name, error.strerror or str(error)) from error


def paths_of(chunk: Any) -> list[str | None]:
    """File names of a chunk of cells; the struct's other field, the bytes, is not touched."""
    struct = getattr(chunk, "storage", chunk)
    try:
        paths: list[str | None] = struct.field("path").to_pylist()
    except (AttributeError, KeyError):
        return []
    return paths
