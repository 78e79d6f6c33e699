"""Getting a checkpoint from the Hub: one revision, every byte checked, installed whole or not at all."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open

from synco_hub.data.pretraining_images import FINGERPRINTS_FILE
from synco_hub.errors import join_names, suggest
from synco_hub.hub.client_errors import ANSWER_SECONDS, explain_errors, limit_silence, refuse_commit_in_name
from synco_hub.hub.conversion.weights import describe_directory_misfit
from synco_hub.zoo import (
    ORIGIN_FILE,
    ZOO,
    ZooRow,
    checkpoint_directory,
    find_embedded_directory,
    home_directory,
    list_models,
)

_AGAIN = "Nothing was installed; repeat the command, it continues where it stopped."
# What makes a checkpoint usable and checkable; the optimizer's state and logs of a run stay where they are.
PATTERNS = ("*.json", "*.safetensors", "*.py", "README.md", "LICENSE*", "card_facts.yaml")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pulled:
    """What was installed.

    Attributes:
        name: Short name that it loads by.
        directory: Where it is installed.
        repo_id: Repository on the Hub.
        commit: Full hash of the revision.
        num_bytes: Size of its files.
    """

    name: str
    directory: Path
    repo_id: str
    commit: str
    num_bytes: int


def pull(name: str, repo_id: str | None = None, revision: str | None = None, api: HfApi | None = None) -> Pulled:
    """Download a checkpoint, check it and install it.

    What has arrived stays below the home of the zoo when the connection breaks, so that repeating continues.
    """
    short, source = _source(name, repo_id)
    client = api or HfApi()
    with explain_errors("pulling", source, _AGAIN):
        info = client.model_info(source, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS)
        files = _wanted(info.siblings or [], source)
    commit = _commit(info.sha, source)
    repository = source.replace("/", "--")
    staging = home_directory() / "pulling" / f"{repository}@{commit}"
    # Whoever pulls the same at the same time waits, and then finds it installed.
    with exclusive_lock(f"pull-{repository}"):
        if not _is_installed(client, short, source, commit, files):
            _download(client, source, commit, files, staging)
            _install(staging, short, source, commit)
        # What is left is of pulls of other revisions that were stopped for good.
        for stopped in staging.parent.glob(f"{repository}@*"):
            shutil.rmtree(stopped)
    return Pulled(short, checkpoint_directory(short), source, commit, sum(file.size or 0 for file in files))


def _is_installed(client: HfApi, short: str, source: str, commit: str, files: Sequence[Any]) -> bool:
    """Whether every byte of this revision is installed under the name."""
    row = next((row for row in list_models() if row.name == short), None)
    if row is None or row.installed is None or (row.source, row.revision) != (source, commit):
        return False
    return not _find_wrong_files(client, source, commit, files, Path(row.installed))


def _download(client: HfApi, source: str, commit: str, files: Sequence[Any], staging: Path) -> None:
    """Fetch every file and compare it with what the Hub says about it."""
    with explain_errors("pulling", source, _AGAIN):
        client.snapshot_download(
            source, revision=commit, local_dir=staging, allow_patterns=[file.rfilename for file in files]
        )
    _verify(client, source, commit, files, staging)


def _install(staging: Path, short: str, source: str, commit: str) -> None:
    """Check what arrived and put it under its name."""
    try:
        _check_backbone(staging, ZOO.get(short), source)
        _check_weights(staging, source)
        install_checkpoint(staging, short, {"source": source, "revision": commit})
    except ValueError:
        shutil.rmtree(staging)  # repeating brings the same bytes
        raise


def _source(name: str, repo_id: str | None) -> tuple[str, str]:
    """The short name and the repository."""
    for given in filter(None, (name, repo_id)):
        refuse_commit_in_name(given)
    short = name.rsplit("/", 1)[-1]
    checkpoint_directory(short)  # refuses what is no name, before anything is asked of the network
    source = repo_id or (name if "/" in name else _find_repository(short))
    if source.count("/") != 1 or not all(source.split("/")):
        raise ValueError(f"{source!r} is no repository of the Hub: it has the form organisation/name.")
    return short, source


def _find_repository(name: str) -> str:
    row = ZOO.get(name)
    if row is None:
        raise ValueError(
            f"{name!r} is no short name of the zoo: see `synco-hub list`, or give organisation/name."
            f"{suggest(name, ZOO)}"
        )
    if row.hub_repo is None:
        here = f"{name!r} {row.how_to_obtain}"
        nowhere = f"the project has not published {name!r}: to have it, {row.how_to_obtain}"
        raise ValueError(
            f"{nowhere if find_embedded_directory(name) is None else here}; or take it from a repository that you "
            f"trust: `synco-hub pull {name} --from organisation/name`."
        )
    return row.hub_repo


def _commit(sha: str | None, source: str) -> str:
    """The full hash; whatever else a server sends must not become part of a path."""
    if not re.fullmatch(r"[0-9a-f]{40}", sha or ""):
        raise OSError(f"pulling {source}: the Hub's answer names no commit (sha {sha!r:.60}). {_AGAIN}")
    return str(sha)


def _wanted(siblings: Iterable[Any], source: str) -> list[Any]:
    """The files that make a checkpoint usable and checkable; never a pickle, never a path that leads elsewhere."""
    names = list(siblings)
    files = [
        file for file in names if "\\" not in file.rfilename and any(fnmatchcase(file.rfilename, p) for p in PATTERNS)
    ]
    files = [file for file in files if "/" not in file.rfilename]
    present = {file.rfilename for file in files}
    if "config.json" not in present or not any(name.endswith(".safetensors") for name in present):
        there = join_names(sorted(file.rfilename for file in names), 8) or "nothing"
        raise ValueError(
            f"{source} holds no checkpoint that can be installed: config.json and weights in .safetensors are needed, "
            f"and it has {there}. Pickled weights are never loaded; `synco-hub convert` reads known ones safely."
        )
    return files


def _verify(client: HfApi, source: str, commit: str, files: Sequence[Any], staging: Path) -> None:
    """Compare every file with what the Hub says about it; wrong ones are deleted, so that repeating gets them anew."""
    wrong = _find_wrong_files(client, source, commit, files, staging)
    for name in wrong:
        (staging / name).unlink(missing_ok=True)
    if wrong:
        raise OSError(
            f"pulling {source}: {join_names(wrong, 8)} arrived with a wrong checksum. Nothing was installed; repeat "
            "the command. If it happens again, the copy between the Hub and this computer is damaged."
        )


def _find_wrong_files(client: HfApi, source: str, commit: str, files: Sequence[Any], directory: Path) -> list[str]:
    """Names of the files that are not there, or not as the Hub has them at this revision."""
    with explain_errors("pulling", source, _AGAIN), limit_silence(ANSWER_SECONDS):
        found = client.verify_repo_checksums(source, revision=commit, local_dir=directory)
    # What the Hub's list leaves out was compared with nothing.
    unproven = {*found.missing_paths, *found.extra_paths, *(mismatch["path"] for mismatch in found.mismatches)}
    return [file.rfilename for file in files if file.rfilename in unproven]


def _check_backbone(staging: Path, row: ZooRow | None, source: str) -> None:
    """A short name promises a method and a backbone; another network must not hide behind it."""
    try:
        config = json.loads((staging / "config.json").read_text(encoding="utf-8"))
        method = (config.get("pretraining") or {}).get("method")
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(f"{source}: its config.json is no configuration; nothing was installed.") from None
    if row is None:
        return
    found = {"backbone": config.get("backbone"), "method": method}
    for key, expected in (("backbone", row.backbone), ("method", row.method)):
        if found[key] not in (None, expected) or (key == "backbone" and found[key] is None):
            raise ValueError(
                f"{source} has {key} {found[key]!r}, but {row.name!r} means {expected!r}: pull it under its own name "
                f"(`synco-hub pull {source}`); nothing was installed."
            )


def _check_weights(staging: Path, source: str) -> None:
    """The Hub's checksum says that a file arrived as it was sent, not that it was ever one of weights."""
    for file in sorted(staging.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                empty = not list(tensors.keys())
        except SafetensorError as error:
            raise ValueError(
                f"{source}: its {file.name} is no whole .safetensors file ({error}); nothing was installed: ask its "
                "author to upload it again."
            ) from error
        if empty:
            raise ValueError(f"{source}: its {file.name} holds no weights; nothing was installed.")


def install_checkpoint(directory: Path, name: str, origin: Mapping[str, str] | None = None) -> Path:
    """Copy a checkpoint under a short name, whole or not at all; an installed one of that name is replaced."""
    destination = checkpoint_directory(name)
    if not (directory / "config.json").is_file() or not any(directory.glob("*.safetensors")):
        raise ValueError(
            f"{directory} is no checkpoint: config.json and a .safetensors file are needed; give the --output-dir of "
            "a finished run."
        )
    try:
        problem = describe_directory_misfit(directory)
    except (SafetensorError, ValueError, RecursionError) as error:
        problem = f"config.json or the weights cannot be read ({' '.join(str(error).split())})"
    if problem:
        named = (origin or {}).get("source", directory)
        raise ValueError(f"{named} is no checkpoint that can be installed: {problem}. Nothing was installed.")
    facts = dict(origin or {"source": str(directory.resolve())})
    with exclusive_lock(f"install-{name}"):
        _replace(destination, directory, facts)
    return destination


def _replace(destination: Path, directory: Path, origin: Mapping[str, str]) -> None:
    """Copy beside the place, then change places by renaming."""
    # Its name is fixed, so that the next installation finds what a killed one has left.
    beside = destination.with_name(f".installing-{destination.name}")
    _tidy(destination, beside)
    staged = beside / "new"
    staged.mkdir(parents=True)
    try:
        for pattern in (*PATTERNS, FINGERPRINTS_FILE):
            for file in directory.glob(pattern):
                shutil.copyfile(file, staged / file.name)  # without the mode that it had there
        (staged / ORIGIN_FILE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        if destination.exists():
            destination.rename(beside / "old")
        staged.rename(destination)
    finally:
        _tidy(destination, beside)


def _tidy(destination: Path, beside: Path) -> None:
    """Put back what stood at the place if nothing new has come there, and remove the rest."""
    if not destination.exists() and (beside / "old").exists():
        (beside / "old").rename(destination)
    shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def exclusive_lock(work: str) -> Iterator[None]:
    """Run the block while no other process or thread runs one of the same name, for the same home of the zoo.

    The system itself lets go of the lock of a process that dies, however it does, so nobody waits for the dead. The
    empty lock file stays: removing it would let one process hold a file that a second no longer finds.
    """
    folder = home_directory() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    # Writable for the group, as a home that several people share needs it.
    lock = FileLock(folder / f"{work}.lock", mode=0o664)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _logger.warning("another process is at %s: waiting until it is done", work)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
