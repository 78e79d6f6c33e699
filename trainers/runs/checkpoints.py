"""A run's directory and its checkpoints: claimed by one run, each checkpoint complete or absent, continued if it fits.

Root: settings, and at the end the online `SynCoModel` with image processor and card, ready for `AutoModel`.
`checkpoint-N/`: the whole state after optimizer step N, also loadable by `AutoModel`.

A checkpoint is written in `.unfinished/checkpoint-N`. When every file lies on the disk, a manifest with their sizes
and hashes is added and the folder is renamed to `checkpoint-N`; older ones are deleted only after that. So a process
that is killed at any moment leaves complete checkpoints and, at worst, an `.unfinished` folder that nothing reads.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list

from synco_hub.atomic_write import atomic_write, set_usual_modes
from synco_hub.data import ImageDataset, StreamedImages, StreamSource
from synco_hub.data.image_dataset import fingerprint
from synco_hub.evaluation.resume import hash_contents
from synco_hub.hub.run_checkpoints import MANIFEST_FILE as MANIFEST_FILE
from synco_hub.hub.run_checkpoints import find_damage, latest_valid_checkpoint, list_checkpoints
from synco_hub.hub.run_checkpoints import hash_file as _sha256
from synco_hub.hub.run_checkpoints import read_manifest as read_manifest
from synco_hub.results import library_versions
from trainers.runs.stream_loading import check_stream_position
from trainers.settings import PretrainingSettings, drop_retired

logger = logging.getLogger(__name__)

SETTINGS_FILE = "pretraining_settings.json"
SUMMARY_FILE = "pretraining_summary.json"
# What must agree for a checkpoint to continue a run; learning rate, logging and the like may change.
WEIGHTS = "weights"
IDENTITY = ("backbone", "pretraining", "views", "data", "seed")
UNFINISHED = ".unfinished"
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
    if "pretraining" in found and "pretraining" in wanted:  # an earlier version knew fewer settings
        defaults = asdict(PretrainingSettings())
        known = {name: defaults[name] for name in wanted["pretraining"] if name in defaults}
        found = {**found, "pretraining": known | found["pretraining"]}
    keys = sorted({*found, *wanted}) if identity is None else list(identity)
    for key in _decided_otherwise(found, wanted):
        keys = [each for each in keys if each != key]
    differences = [line for key in keys for line in _differences(key, found.get(key), wanted.get(key))]
    if differences:
        raise ValueError(
            f"{directory} already holds a different run ({'; '.join(differences[:5])}): choose another --output-dir, "
            "or give the settings it was started with."
        )


def _decided_otherwise(found: dict[str, Any], wanted: dict[str, Any]) -> set[str]:
    """Which of a model's name and its weights do not tell two runs apart: earlier versions knew only the name.

    Its commit on the Hub never does, nor the command line, whose settings are compared.
    """
    never = ("model_revision", "flags")
    if WEIGHTS in found and WEIGHTS in wanted:
        return {"model", *never}
    names = [str(values.get("model")) for values in (found, wanted)]
    same = all(Path(name).is_dir() for name in names) and Path(names[0]).samefile(names[1])
    return {WEIGHTS, *never, *(["model"] if same else [])}


def describe_images(images: ImageDataset, stream: StreamSource | None = None) -> dict[str, Any]:
    """What a run remembers of its data; JSON values.

    `contents` tells it from other data where it has moved; None where only reading the whole would tell.
    """
    contents = None
    if stream is None:
        contents = None if isinstance(images, StreamedImages) else hash_contents(images)
    elif None not in stream.counts:  # files of this computer
        cells = [repr(next(iter(table), None)) for table in stream.tables]
        contents = fingerprint("stream", stream.image_column, cells, [str(count) for count in stream.counts])
    about = images.description
    earlier = {} if about.earlier_fingerprint is None else {"earlier_fingerprint": about.earlier_fingerprint}
    return {**about.to_dict(), **earlier, "contents": contents}


def _differences(name: str, found: Any, wanted: Any) -> list[str]:
    """Human-readable differences of two pieces of plain data, deepest names first."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        if "fingerprint" in found and "fingerprint" in wanted:
            return _differences_of_data(name, found, wanted)
        keys = sorted({*found, *wanted})
        return [line for key in keys for line in _differences(key, found.get(key), wanted.get(key))]
    return [] if found == wanted else [f"{name} was {found!r} and is now {wanted!r}"]


def _differences_of_data(name: str, found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """As `_differences`: where images lie and what they are called is not what they are."""
    same_list = found["fingerprint"] in (wanted["fingerprint"], wanted.get("earlier_fingerprint"))
    # Of the same images with the same labels earlier versions told other words, and counted ids that do not occur.
    told = {"contents", "earlier_fingerprint"}
    told |= {"fingerprint", "num_classes", "split_rule"} if same_list else set()
    keys = sorted({*found, *wanted} - told)
    differences = [line for key in keys for line in _differences(key, found.get(key), wanted.get(key))]
    moved = [key for key in ("name", "source") if found.get(key) != wanted.get(key)]
    if not moved:
        return differences
    contents = [found.get("contents"), wanted.get("contents")]
    if None not in contents:
        same = contents[0] == contents[1]
        differences = [] if same else [f"{name} holds other images", *differences]
    elif same_list:
        differences = []
    if not differences:
        logger.warning("%s was %s and is read from %s now", name, found.get("source"), wanted.get("source"))
    return differences


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


def find_named_checkpoint(path: Path) -> Path:
    """The checkpoint that somebody named, or the newest complete one of the run that was named."""
    if not path.is_dir():
        raise ValueError(f"checkpoint {path} is no folder: name one checkpoint-N of a run, or the run's folder.")
    newest = latest_valid_checkpoint(path) if list_checkpoints(path) else None
    if newest is not None:
        return newest
    damage = find_damage(path)
    if damage is not None:
        raise ValueError(
            f"checkpoint {path} is damaged: {damage}. Name another one, or leave the name out and give --resume "
            "(resume_from_checkpoint=True), which takes the newest complete one."
        )
    return path


def later_checkpoints(directory: Path, step: int) -> list[Path]:
    """The complete checkpoints of a run after a step."""
    return [path for path in list_checkpoints(directory, after=step) if find_damage(path) is None]


def set_aside(checkpoints: Sequence[Path]) -> None:
    """Move checkpoints of an earlier training to where the next one neither finds, overwrites nor deletes them."""
    if not checkpoints:
        return
    numbers = range(1, 2 + sum(1 for _ in checkpoints[0].parent.iterdir()))
    folders = (checkpoints[0].parent / f"earlier-{number}" for number in numbers)
    folder = next(folder for folder in folders if not folder.exists())
    folder.mkdir()
    for checkpoint in checkpoints:
        checkpoint.rename(folder / checkpoint.name)


def rotate_checkpoints(directory: Path, limit: int | None, best: str | None = None) -> None:
    """Delete the oldest checkpoints of this program beyond `limit`, the best one last; others are left alone."""
    finished = [path for path in list_checkpoints(directory) if (path / MANIFEST_FILE).is_file()]
    finished[:-1] = sorted(finished[:-1], key=lambda path: path.name == best)
    for checkpoint in finished[: max(len(finished) - limit, 0)] if limit else []:
        # Without its manifest a half-deleted one is nobody's checkpoint.
        (checkpoint / MANIFEST_FILE).unlink()
        shutil.rmtree(checkpoint, ignore_errors=True)


def remove_unfinished(directory: Path) -> None:
    """Remove what an interrupted save left behind."""
    shutil.rmtree(directory / UNFINISHED, ignore_errors=True)


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
        # Earlier versions did not write all of them for every training.
        if name in saved and saved[name] != now.get(name):
            raise ValueError(
                f"{checkpoint} was made with {name}={saved.get(name)} and is now to be continued with "
                f"{name}={now.get(name)}: the position in the data and the schedules count in it. Keep micro-batch × "
                f"processes × accumulation at {saved.get('global_batch_size')} and the same images"
                f"{_name_factors(saved, now)}, or start a new run."
            )
    if saved.get("seed", now.get("seed")) != now.get("seed"):
        raise ValueError(
            f"{checkpoint} was made with seed={saved['seed']} and is now to be continued with seed={now.get('seed')}, "
            "which draws another order and other views: give the same seed, or start a new run."
        )
    if saved.get("data") is not None and now.get("data") is not None:
        differences = _differences("data", saved["data"], now["data"])
        if differences:
            raise ValueError(
                f"{checkpoint} was made of other data ({'; '.join(differences[:5])}): give the same, or a new run."
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
