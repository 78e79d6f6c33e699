"""The zoo: one row a checkpoint, and where installed checkpoints live on this computer."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# What a directory may be called under the home of the zoo; nothing with a separator, so no name leaves it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

# Beside an installed checkpoint: where it was taken from.
ORIGIN_FILE = "installed_from.json"

_PRETRAIN = "pretrain it (`synco-hub pretrain --recipe {method}-{backbone} --dataset DATA --output-dir DIR`)"
# Only SynCo-v2 has a release of its authors, MoBY one of other training runs; BYOL with these backbones has none.
_RELEASES = {
    "synco-v2": "convert the authors' release (`synco-hub convert FILE --output DIR`), or ",
    "moby": "convert the official MoBY release, another training run than the paper's "
    "(`synco-hub convert FILE --output DIR`), or ",
    "byol": "",
}
_TRAIN_SMALL = "run `synco-hub demo --method {method}` (minutes on two CPU cores)"


@dataclass(frozen=True)
class ZooRow:
    """One checkpoint of the zoo.

    Attributes:
        name: Short name, `<method>-<backbone>`.
        method: `synco-v2`, `moby` or `byol`; None for an installed checkpoint of unknown origin.
        backbone: Short name of the backbone.
        hub_repo: `organisation/name` on the Hub; None until something is published, and None is never asked for.
        paper: Top-1 numbers in percent as reported by the paper, not measured here.
        licence: SPDX identifier of what the project publishes, or the situation in words.
        how_to_obtain: What a user can do to have it.
        installed: Directory of the installed checkpoint, if there is one.
        source: Repository or directory that the installed checkpoint was taken from.
        revision: Commit of that repository.
    """

    name: str
    method: str | None
    backbone: str | None
    hub_repo: str | None = None
    paper: dict[str, float] = field(default_factory=dict)
    licence: str = "unknown"
    how_to_obtain: str = ""
    installed: str | None = None
    source: str | None = None
    revision: str | None = None


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


def _small_row(method: str) -> ZooRow:
    return ZooRow(
        f"{method}-vit-nano",
        method,
        "vit-nano",
        licence="Apache-2.0",
        how_to_obtain=_TRAIN_SMALL.format(method=method),
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
        _small_row("synco-v2"),
        _small_row("moby"),
        _small_row("byol"),
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
    return [replace(row, **installed.get(row.name, {})) for row in (*ZOO.values(), *others)]


def read_origin(directory: Path) -> dict[str, str]:
    """What the installer noted about where a checkpoint came from; nothing if there is no readable note."""
    try:
        noted = json.loads((directory / ORIGIN_FILE).read_text(encoding="utf-8"))
        return {key: str(noted[key]) for key in ("source", "revision") if noted.get(key)}
    except (OSError, ValueError, AttributeError):
        return {}
