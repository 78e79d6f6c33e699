"""What must hold before a checkpoint leaves the computer; every violation is named at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open

from synco_hub.hub.card.evaluation_entries import FOLDER as EVALUATION_FOLDER
from synco_hub.hub.card.evaluation_entries import build_model_index, render_evaluation_files
from synco_hub.hub.card.model_card import (
    CARD_FILE,
    CONVERSION_REPORT,
    find_results_in,
    list_foreign_conversion,
    render_expected_card,
)
from synco_hub.hub.card.rendering import results_table
from synco_hub.hub.conversion.weights import describe_directory_misfit
from synco_hub.results import EvaluationResult

REQUIRED_METADATA = ("license", "library_name", "pipeline_tag", "tags")
REQUIRED_SECTIONS = ("Use", "Backbone", "Training data", "Pretraining", "Results", "Limits", "Licence")
# Beside the numbers, what the Hub shows or filters by; languages and tags of one's own may stand beside these.
_MADE_METADATA = ("license", "license_name", "license_link", "library_name", "pipeline_tag", "datasets")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.npy", "*.npz", "*.joblib")
_SECRET_NAMES = (
    ".env",
    ".env.*",
    ".netrc",
    "id_rsa*",
    "id_ed25519*",
    "*.pem",
    "*.key",
    "*credential*",
    "token",
    "*.p12",
)
# Shapes of keys and tokens that must never be published; none of them is in the project's own files.
_SECRETS = {
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{30,}"),
    "a GitHub token": re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{30,}"),
    "an AWS key": re.compile(rb"\bAKIA[0-9A-Z]{16}\b"),
    "a secret key": re.compile(rb"\bsk-[A-Za-z0-9_-]{20,}"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


def looks_pickled(name: str) -> bool:
    """Whether a file of this name would be loaded by unpickling."""
    return any(fnmatchcase(name.lower(), pattern) for pattern in _PICKLES)


def looks_secret(name: str) -> bool:
    """Whether files of this name usually hold something that is nobody else's business."""
    return any(fnmatchcase(name.lower(), pattern) for pattern in _SECRET_NAMES)


def find_secrets(files: Iterable[Path]) -> list[str]:
    """Text files in which something looks like a key or a token."""
    problems = []
    for file in files:
        if file.suffix == ".safetensors":
            continue
        content = file.read_bytes()
        problems += [
            f"{file.name} contains what looks like {kind}: remove it, and revoke it if it has ever been shared"
            for kind, pattern in _SECRETS.items()
            if pattern.search(content)
        ]
    return problems


def find_config_problems(directory: Path, auto_map: dict[str, str]) -> list[str]:
    """A configuration that loads by the Auto classes with and without the package."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ["config.json is missing or not JSON: give the --output-dir of a finished run or conversion"]
    if not isinstance(config, dict) or config.get("model_type") != "synco":
        return [
            "config.json is not of model type 'synco': upload exported checkpoints of other types with `hf upload`"
        ]
    if config.get("auto_map") != auto_map:
        return ["config.json has no complete auto_map for trust_remote_code: load the model and save it again"]
    return []


def find_weight_problems(directory: Path) -> list[str]:
    """Weights that are missing, unreadable, incomplete, NaN or infinite."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        return ["there are no weights in .safetensors: give the --output-dir of a finished run or conversion"]
    problems, present = [], set()
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                names = list(tensors.keys())
                present.update(names)
                broken = [name for name in names if not bool(torch.isfinite(tensors.get_tensor(name)).all())]
        except (SafetensorError, OSError) as error:
            problems.append(f"{file.name} cannot be read ({error}): save it again")
            continue
        if broken:
            problems.append(
                f"{file.name} has NaN or infinity in {len(broken)} tensors (first: {', '.join(broken[:3])}): take an "
                "earlier checkpoint of the run"
            )
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            missing = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"]) - present)
        except (ValueError, KeyError, TypeError):
            return [*problems, f"{index.name} cannot be read: save the model again"]
        if missing:
            problems.append(f"{len(missing)} weights of {index.name} are in no file (first: {', '.join(missing[:3])})")
    return problems


def fit_problems(directory: Path) -> list[str]:
    """Readable weights of another network than the one that a readable config.json describes."""
    problem = describe_directory_misfit(directory)
    return [f"{problem}: give the config.json and the weights of the same model"] if problem else []


def find_conversion_problems(directory: Path) -> list[str]:
    """A conversion that left something over, did not find something, or was of other weights."""
    file = directory / CONVERSION_REPORT
    if not file.is_file():
        return []
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        leftover, missing, clean = list(report["leftover"]), list(report["missing"]), report["clean"]
        missing += report.get("wrong_shaped", ())
    except (ValueError, KeyError, TypeError):
        return [f"{CONVERSION_REPORT} cannot be read: convert again"]
    if clean is not True or leftover or missing:
        return [
            f"{CONVERSION_REPORT} is not clean: {len(leftover)} tensors left over, {len(missing)} missing or of "
            "another shape "
            f"(first: {', '.join(map(str, (leftover + missing)[:3])) or 'none named'}): convert again until it is"
        ]
    return list_foreign_conversion(directory)


def find_card_problems(directory: Path) -> list[str]:
    """A card with a gap, or with a number that no result file beside it has."""
    if not (directory / CARD_FILE).is_file():
        return [f"there is no card ({CARD_FILE}): write it with `synco-hub card {directory}`"]
    try:
        card = ModelCard.load(directory / CARD_FILE)
    except Exception as error:  # whatever the YAML parser or the client makes of broken metadata
        return [
            f"the metadata of {CARD_FILE} is not valid ({' '.join(str(error).split())}): `synco-hub card {directory}`"
        ]
    data = card.data.to_dict()
    problems = [_gap(key, directory) for key in REQUIRED_METADATA if not data.get(key)]
    problems += [
        f"the card has no section {section!r}: write it anew with `synco-hub card {directory}`"
        for section in REQUIRED_SECTIONS
        if not re.search(rf"^## {section}\n+[^#\s]", card.text.replace("\r\n", "\n"), re.MULTILINE)
    ]
    if different := number_problems(directory, card, find_results_in(directory)):
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        problems.append(f"{different[0]}{more}: write it anew with `synco-hub card {directory}`")
    return problems or find_text_problems(directory, card)


def find_text_problems(directory: Path, card: ModelCard) -> list[str]:
    """Text and licence in the card that do not come from facts and result files, but were typed into it."""
    try:
        made = render_expected_card(directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{CARD_FILE} cannot be compared with what it was made from ({' '.join(str(error).split())})"]
    if changed := [key for key in _MADE_METADATA if card.data.get(key) != made.data.get(key)]:
        return [
            f"the metadata of {CARD_FILE} say {changed[0]} = {card.data.get(changed[0])!r:.80}, but facts and result "
            f"files {made.data.get(changed[0])!r:.80}: write it anew with `synco-hub card {directory}`"
        ]
    due, stated = made.text.strip().splitlines(), card.text.strip().splitlines()
    if stated == due:
        return []
    line = next((ours for ours, theirs in zip_longest(stated, due, fillvalue="") if ours != theirs), "")
    return [
        f"the text of {CARD_FILE} is not what facts and result files say (first at {line[:80]!r}): write it anew with "
        f"`synco-hub card {directory}`; words of your own go into a facts file, `--facts FILE.yaml`"
    ]


def name_problems(directory: Path, repo_id: str) -> list[str]:
    """A card that tells people on the Hub to load something else than the repository it stands in."""
    card = directory / CARD_FILE
    named = (
        set(re.findall(r'from_pretrained\("([^"]*)"', card.read_text(encoding="utf-8"))) if card.is_file() else set()
    )
    return [
        f"the card says to load {name!r}, but people will find it as {repo_id!r}: `synco-hub card {directory} --name "
        f"{repo_id}`"
        for name in sorted(named - {repo_id})
    ]


def _gap(key: str, directory: Path) -> str:
    if key == "license":
        return f"no licence has been chosen: `synco-hub card {directory} --licence apache-2.0`, or the one you mean"
    return f"the card's metadata has no {key}: write it anew with `synco-hub card {directory}`"


def number_problems(directory: Path, card: ModelCard, results: list[EvaluationResult]) -> list[str]:
    """Numbers of the card's table, `model-index` and `.eval_results` that are not those of the result files."""

    def keys(entries: Iterable[Any]) -> set[tuple[Any, ...]]:
        return {(e.dataset_name, e.dataset_split, e.metric_name, e.metric_type, e.metric_value) for e in entries}

    stated, measured = keys(getattr(card.data, "eval_results", None) or []), keys(build_model_index(results))
    problems = [
        f"the card says {name} = {value}, which no result file has" for *_, name, _, value in stated - measured
    ]
    problems += [
        f"the card does not say {name} = {value}, which a result file has"
        for *_, name, _, value in sorted(measured - stated, key=str)
    ]
    shown = re.search(r"^## Results\n(.*?)(?=^##)", card.text.replace("\r\n", "\n"), re.MULTILINE | re.DOTALL)
    if shown is None or shown.group(1).strip() != results_table(results):
        problems.append("the table of results in the card is not that of the result files")
    found = {file.name: file.read_text(encoding="utf-8") for file in (directory / EVALUATION_FOLDER).glob("*.yaml")}
    if found != render_evaluation_files(results):
        problems.append(f"the files in {EVALUATION_FOLDER} are not those of the result files")
    return problems
