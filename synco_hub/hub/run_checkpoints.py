"""What a training run leaves while it is not at its end: checkpoints that are complete or damaged."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
CONFIG_NAME = "config.json"
# A linear head trained on a foreign backbone: what it was trained on, its classes.
HEAD_FACTS = "linear_head.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_READ_AT_ONCE = 1 << 22


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says about itself; empty for a folder without a manifest."""
    file = checkpoint / MANIFEST_FILE
    values: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return values


def find_damage(checkpoint: Path) -> str | None:
    """Why a checkpoint is damaged, or None if every file is there, as long as it was, with the same content."""
    try:
        files = read_manifest(checkpoint).get("files")
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
        if hash_file(file) != expected["sha256"]:
            return f"{name} was changed"
    return None


def latest_valid_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint of a run; one that is damaged is named in a warning and passed over."""
    for checkpoint in reversed(list_checkpoints(directory)):
        broken = find_damage(checkpoint)
        if broken is None:
            return checkpoint
        logger.warning("%s is damaged and is passed over: %s", checkpoint, broken)
    return None


def list_checkpoints(directory: Path, after: int = -1) -> list[Path]:
    """Folders named `checkpoint-N` of the steps after one, by rising N."""
    found = [(int(match[1]), path) for path in directory.glob("*") if (match := _NAME.fullmatch(path.name))]
    return [path for step, path in sorted(found) if step > after and path.is_dir()]


def is_checkpoint_of_run(folder: Path) -> bool:
    """Whether a folder is called as the checkpoints of a run are, whose own facts stand one folder above."""
    return _NAME.fullmatch(folder.name) is not None


def hash_file(file: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def find_newest_state(name: str) -> str:
    """What a model is loaded from: as it is called, or the newest complete checkpoint of a run that is not at its end.

    Raises:
        ValueError: If it is such a run without a checkpoint that could be loaded.
    """
    directory = Path(name)
    if any((directory / file).is_file() for file in (CONFIG_NAME, HEAD_FACTS)) or not list_checkpoints(directory):
        return name
    newest = latest_valid_checkpoint(directory)
    if newest is None or not (newest / CONFIG_NAME).is_file():
        what = "no complete checkpoint" if newest is None else "checkpoints of heads alone"
        raise ValueError(f"{name} is a run that was stopped, with {what}: continue it with --resume.")
    logger.warning("%s is a run that is not at its end: %s is taken", name, newest)
    return str(newest)
