"""A folder that an interrupted measurement continues from: it remembers what it belongs to.

Finished parts (features, masks, boxes, attacked batches) of another model or of other settings must never enter a
result unseen: such a folder is refused. A part whose image files have changed since is no finished part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from synco_hub.atomic_write import atomic_write

_FILE = "measurement.json"
_CONTENTS = "contents"
# Characters of a value in an error: a subset is a list of thousands of numbers.
_SHOWN = 60


def claim_folder(folder: Path, facts: Mapping[str, Any]) -> None:
    """Mark a folder as belonging to one measurement, or check that it does.

    Args:
        folder: Made if it is missing.
        facts: Everything that changes the parts kept there; JSON values.

    Raises:
        ValueError: If the folder belongs to another measurement, naming what differs, or holds foreign files.
    """
    file = folder / _FILE
    if not file.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"{str(folder)!r} is not empty and holds no {_FILE}: give another output, or one of the same command"
            )
        write_json(file, dict(facts))
        return
    if differing := differences(read_json(file), facts):
        raise ValueError(
            f"{str(folder)!r} holds parts of another measurement ({differing}): give another output, or delete this "
            "folder to measure anew"
        )


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first three facts in which two measurements differ, in words; empty if they are one.

    Args:
        theirs: Read from a file.
        ours: JSON values.
    """
    ours = json.loads(json.dumps(dict(ours)))
    differing = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    return "; ".join(f"{key}: {_shown(theirs.get(key))} there, {_shown(ours.get(key))} now" for key in differing[:3])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def keep_part(file: Path, contents: str, values: Mapping[str, Any]) -> None:
    """Write a finished part, whole or not at all.

    Args:
        file: Inside a claimed folder.
        contents: Of the image files that it was measured on, see `measurement.image_contents`.
        values: JSON values.
    """
    write_json(file, {_CONTENTS: contents, **values})


def finished_part(file: Path, contents: str) -> dict[str, Any] | None:
    """What :func:`keep_part` wrote; None if there is nothing, or it was measured on other contents.

    Raises:
        ValueError: If the file is damaged.
    """
    if not file.is_file():
        return None
    values = read_json(file)
    return values if values.pop(_CONTENTS, None) == contents else None


def keep_tensors(file: Path, contents: str, tensors: Mapping[str, Tensor]) -> None:
    """As :func:`keep_part`, for tensors.

    Args:
        file: Ends in .safetensors.
        contents: Of the image files that they were computed from.
        tensors: By name.
    """
    with atomic_write(file) as temporary:
        save_file(dict(tensors), temporary, metadata={_CONTENTS: contents})


def finished_tensors(file: Path, contents: str) -> dict[str, Tensor] | None:
    """What :func:`keep_tensors` wrote; None if there is nothing, or it was computed from other contents.

    Raises:
        ValueError: If the file is damaged.
    """
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            if (stored.metadata() or {}).get(_CONTENTS) != contents:
                return None
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(file)!r} is damaged ({error}): delete it, and measure that part again") from None


def write_json(file: Path, values: Any) -> None:
    """Write JSON values, whole or not at all."""
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object that :func:`write_json` wrote.

    Raises:
        ValueError: If the file is none.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(file)!r} is damaged ({error}): delete it, and measure that part again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{str(file)!r} holds no JSON object: delete it, and measure that part again")
    return values
