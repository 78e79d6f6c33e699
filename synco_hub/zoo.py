"""The zoo: one row a checkpoint, and where checkpoints lie: in the user's home, or in the package itself."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

# What a directory may be called under the home of the zoo; nothing with a separator, so no name leaves it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

# Beside an installed checkpoint: where it was taken from.
ORIGIN_FILE = "installed_from.json"

# The checkpoints that ship with the package, a folder each; docs/make_checkpoints.py alone writes here.
EMBEDDED = Path(__file__).resolve().parent / "checkpoints"
# In the form that `sha256sum --check` reads, of every file below that folder.
CHECKSUMS_FILE = "SHA256SUMS"
_WEIGHTS_FILE = "model.safetensors"

_PRETRAIN = "pretrain it (`synco-hub pretrain --recipe {method}-{backbone} --dataset DATA --output-dir DIR`)"
# Only SynCo-v2 has a release of its authors, MoBY one of other training runs; BYOL with these backbones has none.
_RELEASES = {
    "synco-v2": "convert the authors' release (`synco-hub convert FILE --output DIR`), or ",
    "moby": "convert the official MoBY release, another training run than the paper's "
    "(`synco-hub convert FILE --output DIR`), or ",
    "byol": "",
}
_SHIPPED = "ships with the package; `synco-hub demo --method {method}` trains another (minutes on two CPU cores)"


@dataclass(frozen=True)
class ZooRow:
    """One checkpoint of the zoo.

    Attributes:
        name: Short name, `<method>-<backbone>`.
        method: `synco-v2`, `moby` or `byol`; None for an installed checkpoint of unknown origin.
        backbone: Short name of the backbone.
        hub_repo: `organisation/name` on the Hub; None until something is published, and None is never asked for.
        paper: Top-1 numbers in percent as reported by the paper, not measured here.
        weights: Hash of the weights that ship, see :mod:`synco_hub.weights_identity`; None where none do.
        measured: Top-1 numbers in percent of these weights as measured here; empty where the name loads others.
        results: The result file of each of them, a path below `EMBEDDED`.
        licence: SPDX identifier of what the project publishes, or the situation in words.
        how_to_obtain: What a user can do to have it.
        embedded: Directory of the checkpoint in the package, if it ships.
        installed: Directory of the checkpoint that the user installed, if there is one; the name loads it then.
        source: Repository or directory that the installed checkpoint was taken from.
        revision: Commit of that repository.
    """

    name: str
    method: str | None
    backbone: str | None
    hub_repo: str | None = None
    paper: dict[str, float] = field(default_factory=dict)
    weights: str | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    results: Mapping[str, str] = field(default_factory=dict)
    licence: str = "unknown"
    how_to_obtain: str = ""
    embedded: str | None = None
    installed: str | None = None
    source: str | None = None
    revision: str | None = None

    @property
    def directory(self) -> str | None:
        """Where the name is loaded from on this computer; None where it is not there."""
        return self.installed or self.embedded


_LICENCES = {
    "synco-v2": "authors' release: LICENSE file says MIT, README says CC-BY-NC-4.0",
    "moby": "official MoBY release: MIT",
    "byol": "nothing released; weights that you train are yours to license",
}


def _paper_row(method: str, backbone: str, linear: float, knn10: float, knn20: float) -> ZooRow:
    return ZooRow(
        f"{method}-{backbone}",
        method,
        backbone,
        paper={"imagenet_linear_top1": linear, "imagenet_knn10_top1": knn10, "imagenet_knn20_top1": knn20},
        licence=_LICENCES[method],
        how_to_obtain=_RELEASES[method] + _PRETRAIN.format(method=method, backbone=backbone),
    )


def _small_row(method: str, weights: str, knn10: float, knn20: float, logistic: float) -> ZooRow:
    name = f"{method}-vit-nano"
    knn, probe = f"{name}/results_knn_fractals.json", f"{name}/results_logistic_fractals.json"
    return ZooRow(
        name,
        method,
        "vit-nano",
        weights=weights,
        measured={"fractals_knn10_top1": knn10, "fractals_knn20_top1": knn20, "fractals_logistic_top1": logistic},
        results={"fractals_knn10_top1": knn, "fractals_knn20_top1": knn, "fractals_logistic_top1": probe},
        licence="Apache-2.0",
        how_to_obtain=_SHIPPED.format(method=method),
    )


# Paper numbers: Table 13 (linear, column IN) and Table 12 (k-NN).
ZOO: dict[str, ZooRow] = {
    row.name: row
    for row in (
        _paper_row("synco-v2", "deit-s", 73.1, 71.02, 70.45),
        _paper_row("synco-v2", "swin-t", 75.4, 69.28, 68.72),
        _paper_row("moby", "deit-s", 72.3, 64.38, 64.26),
        _paper_row("moby", "swin-t", 74.7, 67.84, 67.14),
        _paper_row("byol", "deit-s", 70.3, 62.53, 62.43),
        _paper_row("byol", "swin-t", 68.5, 58.10, 57.96),
        # docs/make_checkpoints.py prints these lines.
        _small_row("synco-v2", "349b1be025ed979d", 61.9, 63.5, 78.0),
        _small_row("moby", "f9691e758cf21793", 54.2, 54.4, 72.3),
        _small_row("byol", "0dc329b7ed4d1d42", 61.0, 59.9, 78.4),
    )
}


def home_directory() -> Path:
    """Where installed checkpoints and caches live: `$SYNCO_HUB_HOME`, else `synco_hub` in the user's cache."""
    if home := os.environ.get("SYNCO_HUB_HOME"):
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "synco_hub"


def checkpoint_directory(name: str) -> Path:
    """Where a checkpoint of this short name is, or would be, installed."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a checkpoint name: use up to 96 letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit."
        )
    return home_directory() / "checkpoints" / name


def find_installed_directory(name: str) -> Path | None:
    """The directory of an installed checkpoint, or None; names that are none are simply not installed."""
    if not _NAME.fullmatch(name):
        return None
    directory = checkpoint_directory(name)
    return directory if (directory / "config.json").is_file() else None


def find_embedded_directory(name: str) -> Path | None:
    """The directory of a checkpoint that ships with the package, or None."""
    return EMBEDDED / name if name in ZOO and (EMBEDDED / name).is_dir() else None


def find_checkpoint_directory(name: str) -> Path | None:
    """Where a short name is loaded from on this computer: what the user installed goes before what ships."""
    if installed := find_installed_directory(name):
        return installed
    if embedded := find_embedded_directory(name):
        check_embedded(embedded)
    return embedded


@cache
def check_embedded(directory: Path) -> None:
    """Compare the files of a checkpoint that ships with their checksums, once a process; OSError where one differs."""
    try:
        lines = (directory.parent / CHECKSUMS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    stated = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    due = [name for name in stated if name.startswith(f"{directory.name}/")]
    wrong = [name for name in due if _hash_file(directory.parent / name) != stated[name]]
    if wrong or not due:
        what = f"{', '.join(wrong)} is damaged or missing" if wrong else f"{CHECKSUMS_FILE} does not name it"
        raise OSError(
            f"{directory.name!r} in the package at {directory.parent}: {what}. Install the package again: "
            "`pip install --force-reinstall --no-deps synco-hub`."
        )


def _hash_file(file: Path) -> str | None:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def find_given_directory(directory: Path) -> Path:
    """A checkpoint directory as it was given, or where the short name that was given in its place is loaded from."""
    if directory.is_dir() or directory.name != str(directory):
        return directory
    return find_checkpoint_directory(find_zoo_name(directory.name)) or directory


def refuse_embedded(directory: Path, then: str) -> None:
    """Refuse to change the package's own copy of a checkpoint, and say what to do.

    Args:
        directory: What would be changed.
        then: The command that is possible with a copy, with `{copy}` in the place of its directory.
    """
    if not directory.resolve().is_relative_to(EMBEDDED):
        return
    copy = f"./{directory.resolve().name}"
    raise ValueError(
        f"{directory} belongs to the package, whose files stay as they are: copy it (`cp -r {directory} {copy}`), "
        f"then {then.format(copy=copy)}."
    )


def find_zoo_name(name: str) -> str:
    """A zoo or installed name as it is spelled, found whatever its capitals and a slash at its end; else the name."""
    bare = name.rstrip("/")
    if not _NAME.fullmatch(bare):
        return name
    if bare in ZOO or find_installed_directory(bare):
        return bare
    installed = [directory.name for directory in (home_directory() / "checkpoints").glob("*")]
    spelled = {known.lower(): known for known in (*filter(find_installed_directory, installed), *ZOO)}
    return spelled.get(bare.lower(), name)


def list_models() -> list[ZooRow]:
    """Every checkpoint of the zoo, then the installed ones that are not in it, each with where it is and whence."""
    installed: dict[str, dict[str, Any]] = {
        directory.name: {"installed": str(directory), **read_origin(directory)}
        for directory in sorted((home_directory() / "checkpoints").glob("*"))
        if find_installed_directory(directory.name)
    }
    others = [
        ZooRow(name, None, None, how_to_obtain="installed on this computer") for name in installed if name not in ZOO
    ]
    return [_locate(replace(row, **installed.get(row.name, {}))) for row in (*ZOO.values(), *others)]


def _locate(row: ZooRow) -> ZooRow:
    """With the place in the package; the numbers are of the weights there and of no others."""
    embedded = find_embedded_directory(row.name)
    own = embedded is not None and (row.installed is None or _have_same_weights(Path(row.installed), embedded))
    numbers: dict[str, Any] = {} if own else {"weights": None, "measured": {}, "results": {}}
    return replace(row, embedded=None if embedded is None else str(embedded), **numbers)


def _have_same_weights(one: Path, other: Path) -> bool:
    ours, theirs = one / _WEIGHTS_FILE, other / _WEIGHTS_FILE
    return ours.is_file() and theirs.is_file() and filecmp.cmp(ours, theirs, shallow=False)


def read_origin(directory: Path) -> dict[str, str]:
    """What the installer noted about where a checkpoint came from; nothing if there is no readable note."""
    try:
        noted = json.loads((directory / ORIGIN_FILE).read_text(encoding="utf-8"))
        return {key: str(noted[key]) for key in ("source", "revision") if noted.get(key)}
    except (OSError, ValueError, AttributeError):
        return {}
