"""Checkpoints that are whole or absent, and the choice of the one to continue from.

A checkpoint is written in `.unfinished/checkpoint-N`. When every file lies on the disk, a manifest with their sizes
and hashes is added and the folder is renamed to `checkpoint-N`; older ones are deleted only after that. So a process
that is killed at any moment leaves whole checkpoints and, at worst, an `.unfinished` folder that nothing reads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainers.runs.run_directory import write_json

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
UNFINISHED = ".unfinished"
_NAME = re.compile(r"checkpoint-(\d+)")
_READ_AT_ONCE = 1 << 22


def commit(unfinished: Path, final: Path, facts: Mapping[str, Any]) -> None:
    """Make a written folder a checkpoint: manifest last, then the name that others look for.

    Args:
        unfinished: The folder as it was written, on the same file system as `final`.
        final: Where it belongs. A folder that is there is replaced.
        facts: What the manifest says beside the files; JSON values.

    Raises:
        OSError: If the disk does not take it; `final` is then as it was.
    """
    files = {}
    for file in sorted(path for path in unfinished.rglob("*") if path.is_file()):
        _to_disk(file)
        files[str(file.relative_to(unfinished))] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
    write_json(unfinished / MANIFEST_FILE, {**facts, "files": files})
    _to_disk(unfinished)
    replaced = unfinished.with_name(f"replaced-{final.name}")
    if final.exists():
        final.rename(replaced)
    unfinished.rename(final)
    _to_disk(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says about itself; empty for a folder without a manifest."""
    file = checkpoint / MANIFEST_FILE
    values: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return values


def what_is_broken(checkpoint: Path) -> str | None:
    """Why a checkpoint is not whole, or None if every file is there, as long as it was, with the same content."""
    try:
        files = manifest_of(checkpoint).get("files")
    except (ValueError, OSError) as error:
        return f"its {MANIFEST_FILE} cannot be read ({error})"
    if not files:
        return f"it has no {MANIFEST_FILE}"
    for name, expected in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
        if _sha256(file) != expected["sha256"]:
            return f"{name} was changed"
    return None


def newest_whole(directory: Path) -> Path | None:
    """The newest whole checkpoint of a run; one that is not whole is named in a warning and passed over.

    Args:
        directory: The run's `--output-dir`.
    """
    for checkpoint in reversed(_checkpoints(directory)):
        broken = what_is_broken(checkpoint)
        if broken is None:
            return checkpoint
        logger.warning("%s is not whole and is passed over: %s", checkpoint, broken)
    return None


def rotate(directory: Path, limit: int | None) -> None:
    """Delete the oldest checkpoints of this program beyond `limit`; folders without a manifest are left alone.

    Args:
        directory: The run's `--output-dir`.
        limit: How many are kept; None keeps all.
    """
    finished = [path for path in _checkpoints(directory) if (path / MANIFEST_FILE).is_file()]
    for checkpoint in finished[: max(len(finished) - limit, 0)] if limit else []:
        # Without its manifest a half-deleted one is nobody's checkpoint.
        (checkpoint / MANIFEST_FILE).unlink()
        shutil.rmtree(checkpoint, ignore_errors=True)


def clear_unfinished(directory: Path) -> None:
    """Remove what an interrupted save left behind."""
    shutil.rmtree(directory / UNFINISHED, ignore_errors=True)


def _checkpoints(directory: Path) -> list[Path]:
    """Folders named `checkpoint-N`, by rising N."""
    found = [(int(match[1]), path) for path in directory.glob("*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    """Wait until a file or the names in a folder have reached the disk; renaming earlier could outlive them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
