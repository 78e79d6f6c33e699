"""A run's directory: what it was started with, so that two runs never mix, and what it leaves behind.

Root: the online `SynCoModel` with image processor, card and settings, ready for `AutoModel`. `checkpoint-N/`: the
whole state after optimizer step N, also loadable by `AutoModel`.

"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synco_hub.atomic_write import atomic_write
from trainers.pretraining_arguments import without_retired

SETTINGS_FILE = "pretraining_settings.json"
SUMMARY_FILE = "pretraining_summary.json"
# What must agree for a checkpoint to continue a run; learning rate, logging and the like may change.
IDENTITY = ("backbone", "pretraining", "data", "seed")


def claim(directory: Path, settings: dict[str, Any], resume: bool) -> None:
    """Write a run's settings into its directory, unless another run lives there.

    Args:
        directory: `--output-dir`.
        settings: The resolved settings as plain data; the keys of `IDENTITY` tell runs apart.
        resume: Whether the same run may be continued.

    Raises:
        ValueError: If the directory holds another run (naming the differences), this run without `resume`,
            checkpoints of unknown origin, or a run with settings that are no more. Settings alone are a run only for
            `resume`.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"--output-dir {directory} is a file: name a folder, which may be new.")
    file = directory / SETTINGS_FILE
    settings = json.loads(json.dumps(settings, default=str))
    if file.exists() and (resume or holds_more_than(directory, SETTINGS_FILE)):
        found = json.loads(file.read_text())
        for group in ("pretraining", "training"):
            found[group] = without_retired(found.get(group, {}), str(file))
        _compare(directory, found, settings, resume)
    elif not file.exists() and any(directory.glob("checkpoint-*")):
        raise ValueError(
            f"{directory} holds checkpoints but no {SETTINGS_FILE}, so they are not a run of this program: choose "
            "another --output-dir."
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)


def holds_more_than(directory: Path, settings_file: str) -> bool:
    """Whether a run left anything beside its settings, which alone are nothing to lose.

    Bad images or a full disk stop a run before its first checkpoint. Hidden names are of writes that did not end.

    Args:
        directory: `--output-dir`, which exists.
        settings_file: Name of the settings in it.
    """
    return any(entry.name != settings_file and not entry.name.startswith(".") for entry in directory.iterdir())


def _compare(directory: Path, found: dict[str, Any], wanted: dict[str, Any], resume: bool) -> None:
    differences = [line for key in IDENTITY for line in _differences(key, found.get(key), wanted.get(key))]
    if differences:
        raise ValueError(
            f"{directory} already holds a different run ({'; '.join(differences[:5])}): choose another --output-dir, "
            "or give the settings it was started with."
        )
    if not resume:
        raise ValueError(
            f"{directory} already holds this run: add --resume to continue it, or choose another --output-dir."
        )


def _differences(name: str, found: Any, wanted: Any) -> list[str]:
    """Human-readable differences of two pieces of plain data, deepest names first."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted({*found, *wanted})
        return [line for key in keys for line in _differences(key, found.get(key), wanted.get(key))]
    return [] if found == wanted else [f"{name} was {found!r} and is now {wanted!r}"]


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write plain data whole or not at all."""
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
