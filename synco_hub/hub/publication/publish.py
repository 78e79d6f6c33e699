"""Publishing a checkpoint: checked first, shown, then sent as one commit, so that nobody ever sees half of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from synco_hub.data.pretraining_images import FINGERPRINTS_FILE, PARTS_FOLDER
from synco_hub.hub.card.evaluation_entries import FOLDER as EVALUATION_FOLDER
from synco_hub.hub.card.facts import FACTS_FILE, find_package_file
from synco_hub.hub.card.model_card import CARD_FILE, RESULTS_FOLDER, list_foreign_results
from synco_hub.hub.card.rendering import LOCAL_PATH, name_place
from synco_hub.hub.client_errors import ANSWER_SECONDS, COMMIT_SECONDS, explain_errors, limit_silence
from synco_hub.hub.publication.checks import (
    find_card_problems,
    find_config_problems,
    find_conversion_problems,
    find_secrets,
    find_weight_problems,
    fit_problems,
    looks_pickled,
    looks_secret,
    name_problems,
)
from synco_hub.models.modeling_synco import AUTO_MAP
from synco_hub.results import EvaluationResult
from synco_hub.version import __version__
from synco_hub.zoo import ORIGIN_FILE, refuse_embedded

# Beside these, results are published; whatever else lies in a directory is left, or refused.
_PUBLISHED = (
    "config.json", "preprocessor_config.json", "model.safetensors", "model-*-of-*.safetensors",
    "model.safetensors.index.json", "linear_head.safetensors", CARD_FILE, FACTS_FILE, "classification_settings.json",
    "pretraining_settings.json", "pretraining_summary.json", "conversion_report.json", "linear_head.json", "LICENSE*",
)  # fmt: skip
# What a run leaves behind for itself.
_LEFT = (
    "training_args.bin", "trainer_state.json", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth",
    "all_results.json", "train_results.json", "training_curve.*", "*.png", "*.csv", "*.log", "*.jsonl", ORIGIN_FILE,
    "run_manifest.json", "manifest.json", FINGERPRINTS_FILE,
)  # fmt: skip
_LEFT_FOLDERS = (
    "checkpoint-*", "*.batches", "*.outputs", "runs", "logs", "tensorboard", ".cache", "__pycache__", PARTS_FOLDER,
)  # fmt: skip
# On the Hub, files of these kinds are this package's: what is not sent any more is removed in the same commit.
_OWNED = {
    "model": (
        "*.safetensors", "*.safetensors.index.json", "*_synco.py", f"{EVALUATION_FOLDER}/*.yaml",
        f"{RESULTS_FOLDER}/*.json",
    ),
    "space": ("synco_hub/*", "space_app/*", "model_cards/*"),
}  # fmt: skip

# What a new Space is told: with an arena of memory for every thread, a server whose threads come and go grows.
_SPACE_VARIABLES = [{"key": "MALLOC_ARENA_MAX", "value": "2"}]


@dataclass(frozen=True)
class UploadPlan:
    """What would be published.

    Attributes:
        files: Path in the repository to the file on this computer.
        left: What lies in the directory and stays here.
        shortened: What is sent in the place of a file that names paths of this computer: each is its last part there.
    """

    files: dict[str, Path]
    left: tuple[str, ...]
    shortened: dict[str, bytes] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Path in the repository to bytes."""
        return {
            path: len(self.shortened[path]) if path in self.shortened else file.stat().st_size
            for path, file in self.files.items()
        }


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        repo_id: Repository on the Hub.
        commit: Full hash of the new revision.
        url: Page of the commit.
        removed: Files of earlier revisions that are gone from this one.
    """

    repo_id: str
    commit: str
    url: str
    removed: tuple[str, ...]


def upload_plan(directory: Path, repo_id: str) -> UploadPlan:
    """Check a checkpoint and say what of it would be published.

    The model code comes from this package, not from the directory: it is the code the checks know.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory} is no folder: give the directory of a checkpoint.")
    _check_name(repo_id)
    # Its card names it as it is called here, not as the repository.
    refuse_embedded(directory, f"`synco-hub card {{copy}} --name {repo_id}`, and publish {{copy}}")
    code = {file.name: file for file in sorted(find_package_file("models").glob("*_synco.py"))}
    files: dict[str, Path] = {}
    left: list[str] = []
    problems: list[str] = []
    for entry in sorted(directory.iterdir()):
        if entry.is_dir():
            _sort_folder(entry, files, left, problems)
        elif entry.name not in code:
            _sort_file(entry, files, left, problems)
    files |= code
    if "preprocessor_config.json" not in files:
        problems.append("preprocessor_config.json is missing: save the image processor beside the weights")
    unreadable = find_config_problems(directory, AUTO_MAP) + find_weight_problems(directory)
    problems += (unreadable or fit_problems(directory)) + find_conversion_problems(directory)
    problems += find_card_problems(directory) + ([] if unreadable else list_foreign_results(directory))
    problems += name_problems(directory, repo_id) + find_secrets(files.values())
    if problems:
        raise ValueError(f"{directory} is not fit to be published: {'; '.join(problems)}.")
    return UploadPlan(files, tuple(left), _shorten_paths(files))


def _shorten_paths(files: dict[str, Path]) -> dict[str, bytes]:
    """JSON in which paths of this computer are cut to their last part: where somebody's pictures lie is private."""
    values = {path: _read_json(file) for path, file in files.items() if path.endswith(".json")}
    texts = {text for each in values.values() for text in _list_texts(each)}
    # `/a/b` and `--data-dir=/a/b`, and where words follow, as in a description, `/a/b; words`.
    paths = {re.sub(r"^--[\w-]+=", "", text).split("; ")[0].rstrip("\\/") for text in texts}
    told = sorted((path for path in paths if LOCAL_PATH.match(path)), key=len, reverse=True)

    def shorten(value: Any) -> Any:
        if isinstance(value, str):
            for path in told:
                # Not inside a word: of /data not the end of image/data or of an address.
                value = re.sub(rf"(?<![\w.~]){re.escape(path)}", name_place(path), value)
            return value
        if isinstance(value, dict):
            return {shorten(key): shorten(each) for key, each in value.items()}
        return [shorten(each) for each in value] if isinstance(value, list) else value

    changed = {path: shorten(value) for path, value in values.items()}
    return {
        path: f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".encode()
        for path, value in changed.items()
        if value != values[path]
    }


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): write it anew, or move it away.") from None


def _list_texts(value: Any) -> Iterator[str]:
    """All strings of plain data, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _list_texts(each)


def _sort_folder(folder: Path, files: dict[str, Path], left: list[str], problems: list[str]) -> None:
    if folder.is_symlink():
        problems.append(f"the folder {folder.name}/ is a link: put the folder itself there")
    elif folder.name == EVALUATION_FOLDER:
        files.update({f"{EVALUATION_FOLDER}/{file.name}": file for file in sorted(folder.glob("*.yaml"))})
    elif folder.name == RESULTS_FOLDER:
        _sort_results(folder, RESULTS_FOLDER, files, left, problems)
    elif _is_left(folder):
        left.append(f"{folder.name}/")
    else:
        problems.append(f"the folder {folder.name}/ is not expected beside a checkpoint: move it away")


def _sort_results(folder: Path, published: str, files: dict[str, Path], left: list[str], problems: list[str]) -> None:
    for entry in sorted(folder.iterdir()):
        path = f"{published}/{entry.name}"
        if entry.is_symlink() or not (entry.is_dir() or _is_result(entry)):
            problems.append(f"{path} is no result of this package: move it away")
        elif not entry.is_dir():
            files[path] = entry
        elif _is_left(entry):
            left.append(f"{path}/")
        else:
            _sort_results(entry, path, files, left, problems)


def _is_left(folder: Path) -> bool:
    return any(fnmatchcase(folder.name, pattern) for pattern in _LEFT_FOLDERS)


def _sort_file(file: Path, files: dict[str, Path], left: list[str], problems: list[str]) -> None:
    name = file.name
    if file.is_symlink() and not file.resolve().is_relative_to(file.parent.resolve()):
        problems.append(f"{name} is a link out of the directory: put the file itself there")
    elif any(fnmatchcase(name, pattern) for pattern in _LEFT):
        left.append(name)
    elif looks_secret(name):
        problems.append(f"{name} looks like a secret: move it away")
    elif any(fnmatchcase(name, pattern) for pattern in _PUBLISHED) or _is_result(file):
        files[name] = file
    elif looks_pickled(name):
        problems.append(f"{name} may be a pickle, which runs code when it is loaded: publish .safetensors only")
    else:
        problems.append(f"{name} is not expected beside a checkpoint: move it away")


def _is_result(file: Path) -> bool:
    if file.suffix != ".json" or not file.is_file():
        return False
    try:
        EvaluationResult.load(file)
    except ValueError:
        return False
    return True


def publish(
    plan: UploadPlan, repo_id: str, private: bool = False, api: HfApi | None = None, kind: str = "model"
) -> Published:
    """Send what was planned as one commit, on top of the revision that was there when it began."""
    _check_name(repo_id)
    client = api or HfApi()
    again = "Nothing was published; repeat the command."
    with explain_errors("publishing", repo_id, again), limit_silence(ANSWER_SECONDS):
        space: dict[str, Any] = {"space_sdk": "gradio", "space_variables": _SPACE_VARIABLES} if kind == "space" else {}
        client.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, **space)
        info: Any = client.repo_info(repo_id, repo_type=kind, files_metadata=True, timeout=ANSWER_SECONDS)
    before = str(info.sha)
    removed = tuple(
        file.rfilename
        for file in info.siblings or []
        if file.rfilename not in plan.files and any(fnmatchcase(file.rfilename, pattern) for pattern in _OWNED[kind])
    )
    operations: list[Any] = [
        CommitOperationAdd(path, plan.shortened.get(path, str(file))) for path, file in plan.files.items()
    ]
    operations += [CommitOperationDelete(path) for path in removed]
    still = (
        f"Nothing was published: {repo_id} still is at revision {before[:12]}, whole. Repeat the command; large files "
        "that have arrived are not sent again."
    )
    try:
        with explain_errors("publishing", repo_id, still), limit_silence(COMMIT_SECONDS):
            made = client.create_commit(
                repo_id,
                operations,
                commit_message=f"Publish with synco-hub {__version__}",
                repo_type=kind,
                parent_commit=before,
            )
    except OSError:
        # The commit may have been made although its answer was lost: what is there now decides.
        if (now := _head_with(client, repo_id, kind, before, plan)) is None:
            raise
        page = f"{client.endpoint}/{'spaces/' if kind == 'space' else ''}{repo_id}"
        return Published(repo_id, now, f"{page}/commit/{now}", removed)
    return Published(repo_id, made.oid, made.commit_url, removed)


def _check_name(repo_id: str) -> None:
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ValueError(f"--repo-id {repo_id!r} has not the form organisation/name.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"--repo-id {repo_id!r} is no name that the Hub allows: {error}") from error


def _head_with(client: HfApi, repo_id: str, kind: str, before: str, plan: UploadPlan) -> str | None:
    """The new head, if it holds exactly what was planned; None if nothing happened or nobody can be asked."""
    try:
        info: Any = client.repo_info(repo_id, repo_type=kind, files_metadata=True, timeout=ANSWER_SECONDS)
    except Exception:
        return None  # the first failure is the one to report
    if info.sha == before:
        return None
    remote = {file.rfilename: file for file in info.siblings or []}
    arrived = all(
        path in remote and _same(plan.shortened.get(path) or file.read_bytes(), remote[path])
        for path, file in plan.files.items()
    )
    return str(info.sha) if arrived else None


def _same(content: bytes, remote: Any) -> bool:
    if remote.lfs is not None:
        return bool(hashlib.sha256(content).hexdigest() == remote.lfs["sha256"])
    blob = b"blob %d\0" % len(content) + content
    return bool(hashlib.sha1(blob, usedforsecurity=False).hexdigest() == remote.blob_id)
