"""Where a command is to write, checked before its work: a bad path must not cost the minutes or hours before it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path


def check_result_file(path: Path, flag: str = "--output") -> None:
    """Check that a result can be written as JSON."""
    check_output_file(path, flag)
    if path.is_file() and path.stat().st_size and not _is_result(path):
        raise ValueError(f"{flag} {path}: the file is there and no result; give another path, or remove it first.")


def check_output_file(path: Path, flag: str, suffixes: Sequence[str] = ()) -> None:
    """Check that a file can be written."""
    if path.is_dir():
        raise ValueError(f"{flag} {path}: is a folder; give the path of a file.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{flag} {path}: is no ordinary file, and would be replaced; give the path of a file.")
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{flag} {path}: does not end in {' or '.join(suffixes)}; choose one of these formats.")
    _check_place(path.parent, path, flag)


def check_output_folder(path: Path, flag: str) -> None:
    """Check that a folder can be written into, or be made."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{flag} {path}: is a file; give the path of a folder.")
    _check_place(path, path, flag)


def _check_place(folder: Path, path: Path, flag: str) -> None:
    """Write and remove a file in the nearest folder that is there; missing ones are made with the output itself."""
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not place.is_dir():
        raise ValueError(f"{flag} {path}: {place} is a file, so that nothing can lie in it; give another path.")
    try:
        # Permissions do not say everything: a disk can be full, or be mounted for reading only.
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"\0")
    except OSError as error:
        raise ValueError(
            f"{flag} {path}: nothing can be written in {place} ({error.strerror}); give a path on another disk or in "
            "another folder, or make room or change its permissions."
        ) from None


def _is_result(path: Path) -> bool:
    """Whether it is a result, of any version; other JSON, such as a checkpoint's configuration, is not replaced."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(values, dict) and {"schema_version", "metrics"} <= values.keys()
