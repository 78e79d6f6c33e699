"""What the name of a model stands for: a directory, an adapter, a checkpoint of a run, a commit on the Hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError
from transformers.utils import IMAGE_PROCESSOR_NAME
from transformers.utils import hub as transformers_files
from transformers.utils.import_utils import is_peft_available

from synco_hub.data.pretraining_images import keeps_fingerprints
from synco_hub.errors import suggest
from synco_hub.hub.client_errors import refuse_commit_in_name
from synco_hub.hub.run_checkpoints import HEAD_FACTS as HEAD_FACTS
from synco_hub.hub.run_checkpoints import find_newest_state, is_checkpoint_of_run
from synco_hub.hub.short_names import register, resolve
from synco_hub.zoo import EMBEDDED, ORIGIN_FILE, list_models, read_origin

TIMM_PREFIX = "timm:"
ADAPTER_FILE = "adapter_config.json"


def check_model_name(name: str) -> None:
    """Refuse what can be no model of `transformers` before anything is loaded."""
    known = [row.name for row in list_models()]
    if name not in known and "/" not in name and not Path(name).is_dir():
        raise ValueError(
            f"model {name!r} is neither a directory, nor installed, nor in the zoo: `synco-hub list` shows what there "
            f"is; a Hub id has the form organisation/name, timm's models timm:name.{suggest(name, known)}"
        )
    start = name.split("/", 1)[0]
    if (
        not Path(name).is_dir()
        and ("/" in name)
        and (start in ("", ".", "..") or start[0] == "~" or Path(start).is_dir())
    ):
        raise ValueError(f"model {name!r} looks like a path, and there is no such directory: give one that is there.")
    refuse_commit_in_name(
        name,
        "--model-revision {commit} (model_revision= in Python), or install that commit: `synco-hub pull {repository} "
        "--revision {commit}`",
    )
    if not Path(name).is_dir() or (Path(name) / "config.json").is_file():
        return
    if not (Path(name) / ADAPTER_FILE).is_file():
        raise ValueError(f"model {name!r} is a folder without config.json: give a checkpoint directory.")
    adapted = read_adapted_model(Path(name) / ADAPTER_FILE)
    if not is_peft_available():
        raise ValueError(
            f"model {name!r} is an adapter of {adapted!r}, which peft loads: pip install peft, or save the model with "
            "its adapter merged."
        )
    try:
        check_model_name(adapted)
    except ValueError as error:
        raise ValueError(f"model {name!r} is an adapter of another: {error}") from None


def find_backbone_name(name: str) -> str:
    """What a model is loaded by: the backbone of a directory that holds no more than a linear head for it.

    Of a training that is not at its end the newest complete checkpoint.
    """
    return str(read_head_facts(name).get("model") or find_newest_state(name))


def read_head_facts(name: str) -> dict[str, Any]:
    """What a directory that holds no more than a linear head says about it; empty for everything else."""
    file = Path(name) / HEAD_FACTS
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def find_adapted_model(name: str) -> str | None:
    """What the adapter of peft in a directory without a model or image processor adapts, None for anything else."""
    directory = Path(name)
    file = directory / ADAPTER_FILE
    if not file.is_file() or (directory / "config.json").is_file() or (directory / IMAGE_PROCESSOR_NAME).is_file():
        return None
    return read_adapted_model(file)


def read_adapted_model(file: Path) -> str:
    return str(json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") or "")


# What a directory says of the model that its own was made of: the file, and the keys that lead to its name.
_MADE_OF = (
    ("pretraining_settings.json", ("start", "base_model")),
    ("classification_settings.json", ("model",)),
    (HEAD_FACTS, ("model",)),
    (ADAPTER_FILE, ("base_model_name_or_path",)),
    ("average.json", ("start", "base_model")),
    ("average.json", ("end", "base_model")),
    (ORIGIN_FILE, ("source",)),
)


def find_pretraining_folders(name: str) -> list[Path]:
    """Folders that keep fingerprints of what a model was pretrained on.

    Its own or that of its run, and those of the models that it was made of, as far as they lie on this computer.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    waiting = [name]
    while waiting:
        place = _find_directory(waiting.pop(0))
        if place is None or place in seen:
            continue
        seen.add(place)
        has_own = [folder for folder in (place, place.parent) if keeps_fingerprints(folder)]
        if has_own and (has_own[0] == place or is_checkpoint_of_run(place)):
            found.append(has_own[0])
        folders = (place, place.parent) if is_checkpoint_of_run(place) else (place,)
        for file, keys in _MADE_OF:
            if file == ORIGIN_FILE and has_own:
                continue  # a copy of what was installed
            for folder in folders:
                made_of = _read_key(folder / file, keys)
                # A relative name counts from where the command was given, else from the folder that says it.
                waiting += [] if made_of is None else [made_of, str(folder.parent / made_of)]
    return list(dict.fromkeys(found))


def _find_directory(name: str) -> Path | None:
    if name.startswith(TIMM_PREFIX):
        return None
    try:
        place = Path(resolve(name)).expanduser()
    except OSError:
        return None
    return place.resolve() if place.is_dir() else None


def _read_key(file: Path, keys: tuple[str, ...]) -> str | None:
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value else None


@dataclass(frozen=True)
class Revision:
    """Which commit a name stands for.

    Attributes:
        commit: What to load it at; None where there is nothing to choose.
        words: What results say: the commit, or why there is none.
    """

    commit: str | None
    words: str


def say_revision(recorded: object) -> str:
    """A recorded revision within a sentence: "none: a local directory" and the like say why there is no commit."""
    return re.sub(r"^none: (.*)", r"\1, no commit", str(recorded))


def find_revision(name: str, revision: str | None = None, with_weights: bool = True) -> Revision:
    """The commit on the Hub that a model's name means now, or means at a branch, tag or commit.

    Offline it is that of the cached files. Without weights, an architecture of timm needs none.
    """
    if facts := read_head_facts(name):
        _refuse_revision(name, revision, "it holds a linear head for a model that it names")
        return find_revision(facts["model"], facts.get("revision"), with_weights)
    if name.startswith(TIMM_PREFIX):
        return _find_timm_revision(name.removeprefix(TIMM_PREFIX), revision, with_weights)
    register()
    place = resolve(name)
    if Path(place).is_dir():
        installed = read_origin(Path(place)) if place != name else {}
        commit = installed.get("revision")
        if revision is not None and revision != commit:
            remedy = f"`synco-hub pull {name} --revision {revision}` installs another" if installed else "leave it out"
            _refuse_revision(name, revision, f"it is a directory on this computer, which has none; {remedy}")
        ships = Path(place).is_relative_to(EMBEDDED)
        return Revision(None, commit or f"none: {'ships with synco-hub' if ships else 'a local directory'}")
    if "/" not in place:
        return Revision(revision, "unknown: this name is no repository")  # loading says what it should be
    check_model_name(place)
    try:
        file = transformers_files.cached_file(place, "config.json", revision=revision)
    except OSError:
        if revision is not None:
            raise
        file = None  # loading says what is missing
    return _revision_of(file, revision)


def _find_timm_revision(name: str, revision: str | None, with_weights: bool) -> Revision:
    repository = find_timm_repository(name)
    if repository is None:
        _refuse_revision(f"{TIMM_PREFIX}{name}", revision, "its weights lie on no Hub")
        return Revision(None, "none: its weights lie on no Hub")
    found: Any = None
    try:
        found = hf_hub_download(repository, "config.json", revision=revision)
    except RevisionNotFoundError:
        raise ValueError(
            f"--model-revision {revision}: {repository} has no such revision; give a branch, a tag or a commit."
        ) from None
    except OSError as error:
        # Without a network: what lies here decides.
        for file in ("model.safetensors", "pytorch_model.bin"):
            found = found or try_to_load_from_cache(repository, file, revision=revision)
        unreachable = isinstance(error, LocalEntryNotFoundError)
        if with_weights and unreachable and not isinstance(found, str):
            # timm would wait for the network again, for each file that it could read.
            why = "HF_HUB_OFFLINE forbids the network" if is_offline_mode() else "the Hub cannot be reached"
            raise OSError(
                f"model '{TIMM_PREFIX}{name}': its weights, {repository} on the Hub, are not in the cache, and "
                f"{why}: run this once where it can be, or give a directory."
            ) from None
    return _revision_of(found if isinstance(found, str) else None, revision)


def find_timm_repository(name: str) -> str | None:
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return getattr(config, "hf_hub_id", None) or None


def _refuse_revision(name: str, revision: str | None, why: str) -> None:
    if revision is not None:
        raise ValueError(f"--model-revision {revision} of {name!r}: {why}.")


def _revision_of(file: str | None, revision: str | None) -> Revision:
    """The commit is a folder of the cache that its files lie in."""
    found = re.search(r"/snapshots/([0-9a-f]{40})/", Path(file).as_posix()) if file else None
    if found is None:
        return Revision(revision, f"unknown: the Hub named no commit for {revision or 'the newest revision'}")
    return Revision(found.group(1), found.group(1))
