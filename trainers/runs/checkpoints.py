"""A run's directory and its checkpoints: claimed by one run, each checkpoint complete or absent, continued if it fits.

Root: settings, and at the end the online `SynCoModel` with image processor and card, ready for `AutoModel`.
`checkpoint-N/`: the whole state after optimizer step N, also loadable by `AutoModel`.

A checkpoint is written in `.unfinished/checkpoint-N`. When every file lies on the disk, a manifest with their sizes
and hashes is added and the folder is renamed to `checkpoint-N`; older ones are deleted only after that. So a process
that is killed at any moment leaves complete checkpoints and, at worst, an `.unfinished` folder that nothing reads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list

from synco_hub.atomic_write import atomic_write, set_usual_modes
from synco_hub.results import library_versions
from trainers.runs.stream_loading import check_stream_position
from trainers.settings import drop_retired

logger = logging.getLogger(__name__)

SETTINGS_FILE = "pretraining_settings.json"
SUMMARY_FILE = "pretraining_summary.json"
# What must agree for a checkpoint to continue a run; learning rate, logging and the like may change.
IDENTITY = ("backbone", "pretraining", "data", "seed")
MANIFEST_FILE = "manifest.json"
UNFINISHED = ".unfinished"
_NAME = re.compile(r"checkpoint-(\d+)")
_READ_AT_ONCE = 1 << 22
# What the position in the data and every schedule are counted in: with another value they would mean something else.
_COUNTED_IN = ("global_batch_size", "steps_per_epoch", "num_images")
# What leaves position and schedules alone, but not every bit.
_LEAVES_BITS = ("world_size", "gradient_accumulation_steps", "precision", "augment_on")


def claim_directory(
    directory: Path,
    settings: dict[str, Any],
    resume: bool,
    settings_file: str = SETTINGS_FILE,
    identity: Sequence[str] | None = IDENTITY,
) -> None:
    """Write a run's settings into its directory, unless another run lives there.

    The keys of `identity` tell runs apart; None for all. Settings alone are a run only for `resume`.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"--output-dir {directory} is a file: name a folder, which may be new.")
    file = directory / settings_file
    settings = json.loads(json.dumps(settings, default=str))
    if file.exists() and (resume or _has_results(directory, settings_file)):
        _check_same_run(directory, _read_settings(file), settings, identity)
        if not resume:
            raise ValueError(
                f"{directory} already holds this run: add --resume to continue it, or choose another --output-dir."
            )
    elif not file.exists() and any(directory.glob("checkpoint-*")):
        raise ValueError(
            f"{directory} holds checkpoints but no {settings_file}, so they are not a run of this program: choose "
            "another --output-dir."
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)


def _has_results(directory: Path, settings_file: str) -> bool:
    """Whether a run left anything beside its settings, which alone are nothing to lose.

    Bad images or a full disk stop a run before its first checkpoint. Hidden names are of writes that did not end.
    """
    return any(entry.name != settings_file and not entry.name.startswith(".") for entry in directory.iterdir())


def _read_settings(file: Path) -> dict[str, Any]:
    """The settings of the run that lives there, also if an earlier version wrote them."""
    found: dict[str, Any] = json.loads(file.read_text())
    for group in {"pretraining", "training"} & set(found):
        found[group] = drop_retired(found[group], str(file))
    return found


def read_settings(
    directory: Path, names: Sequence[str] | None = None, settings_file: str = SETTINGS_FILE
) -> dict[str, Any]:
    """What a run's settings file says, or some keys of it; empty where there is none."""
    file = directory / settings_file
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return {name: value for name, value in found.items() if names is None or name in names}


def _check_same_run(
    directory: Path, found: dict[str, Any], wanted: dict[str, Any], identity: Sequence[str] | None
) -> None:
    keys = sorted({*found, *wanted} - {"flags"}) if identity is None else identity
    differences = [line for key in keys for line in _differences(key, found.get(key), wanted.get(key))]
    if differences:
        raise ValueError(
            f"{directory} already holds a different run ({'; '.join(differences[:5])}): choose another --output-dir, "
            "or give the settings it was started with."
        )


def _differences(name: str, found: Any, wanted: Any) -> list[str]:
    """Human-readable differences of two pieces of plain data, deepest names first."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted({*found, *wanted})
        return [line for key in keys for line in _differences(key, found.get(key), wanted.get(key))]
    return [] if found == wanted else [f"{name} was {found!r} and is now {wanted!r}"]


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write plain data completely or not at all."""
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def commit_checkpoint(unfinished: Path, final: Path, description: Mapping[str, Any]) -> None:
    """Make a written folder a checkpoint: manifest last, then the name that others look for."""
    set_usual_modes(unfinished)
    files = {}
    for file in sorted(path for path in unfinished.rglob("*") if path.is_file()):
        _fsync(file)
        files[str(file.relative_to(unfinished))] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
    write_json(unfinished / MANIFEST_FILE, {**description, "files": files})
    _fsync(unfinished)
    replaced = unfinished.with_name(f"replaced-{final.name}")
    if final.exists():
        final.rename(replaced)
    unfinished.rename(final)
    _fsync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


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
        if _sha256(file) != expected["sha256"]:
            return f"{name} was changed"
    return None


def latest_valid_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint of a run; one that is damaged is named in a warning and passed over."""
    for checkpoint in reversed(_checkpoints(directory)):
        broken = find_damage(checkpoint)
        if broken is None:
            return checkpoint
        logger.warning("%s is damaged and is passed over: %s", checkpoint, broken)
    return None


def rotate_checkpoints(directory: Path, limit: int | None, best: str | None = None) -> None:
    """Delete the oldest checkpoints of this program beyond `limit`, the best one last; others are left alone."""
    finished = [path for path in _checkpoints(directory) if (path / MANIFEST_FILE).is_file()]
    finished[:-1] = sorted(finished[:-1], key=lambda path: path.name == best)
    for checkpoint in finished[: max(len(finished) - limit, 0)] if limit else []:
        # Without its manifest a half-deleted one is nobody's checkpoint.
        (checkpoint / MANIFEST_FILE).unlink()
        shutil.rmtree(checkpoint, ignore_errors=True)


def remove_unfinished(directory: Path) -> None:
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


def _fsync(path: Path) -> None:
    """Wait until a file or the names in a folder have reached the disk; renaming earlier could outlive them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_continuation(checkpoint: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare how a checkpoint was made with how it is to be continued.

    Another number of processes is allowed when the images per optimizer step stay the same: order of the data,
    schedules and queues go on as they were; drop path and synthesis then draw other numbers, which is said. A stream
    is shared out among the processes, so there it is allowed at the start of an epoch only.
    """
    for name in _COUNTED_IN:
        if saved.get(name) != now.get(name):
            raise ValueError(
                f"{checkpoint} was made with {name}={saved.get(name)} and is now to be continued with "
                f"{name}={now.get(name)}: the position in the data and the schedules count in it. Keep micro-batch × "
                f"processes × accumulation at {saved.get('global_batch_size')} and the same images"
                f"{_name_factors(saved, now)}, or start a new run."
            )
    check_stream_position(checkpoint, saved.get("stream"), now.get("stream"))
    others = [
        f"{name} was {saved.get(name)}, is {now.get(name)}"
        for name in _LEAVES_BITS
        if saved.get(name) != now.get(name)
    ]
    if others:
        logger.warning(
            "continuing exactly in data and schedules, but not to the last bit, since draws and sums are made in "
            "another order: %s",
            "; ".join(others),
        )
    versions = now.get("versions", library_versions())
    changed = [
        f"{name} {old} → {versions.get(name)}"
        for name, old in saved.get("versions", {}).items()
        if versions.get(name) != old
    ]
    if changed:
        logger.warning("continuing with other library versions, which may change bits: %s", ", ".join(changed))


def _name_factors(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The factors of a batch, where their product alone does not give an epoch as many steps."""
    if any(saved.get(name) != now.get(name) for name in ("global_batch_size", "num_images")):
        return ""
    accumulated = saved.get("gradient_accumulation_steps") or 1
    return (
        f" (micro-batch × processes at {saved.get('global_batch_size', 0) // accumulated} and accumulation at "
        f"{accumulated}: with other factors more or fewer images are left over at the end of an epoch)"
    )


Result = TypeVar("Result")


def run_on_main_process(work: Callable[[], Result], process_index: int, num_processes: int) -> Result | None:
    """What one process does for all; where it fails, the others end without a word of their own."""
    result, failure = None, None
    if process_index == 0:
        try:
            result = work()
        except Exception as error:
            failure = error
    failed = [failure is not None]
    if num_processes > 1:
        broadcast_object_list(failed)
    if failure is not None:
        raise failure
    if failed[0]:
        sys.exit(1)
    return result
