"""The zoo: one row a checkpoint, and where installed checkpoints live on this computer."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

# What a directory may be called under the home of the zoo; nothing with a separator, so no name leaves it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

_FROM_AUTHORS = (
    "convert the authors' release (the converter comes with a later version), or pretrain (`synco-hub pretrain "
    "--recipe {method}-{backbone} --dataset DATA --output-dir DIR`)"
)
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
    """

    name: str
    method: str | None
    backbone: str | None
    hub_repo: str | None = None
    paper: dict[str, float] = field(default_factory=dict)
    licence: str = "unknown"
    how_to_obtain: str = ""
    installed: str | None = None


_AUTHORS_LICENCE = "authors' release: LICENSE file says MIT, README says CC-BY-NC-4.0"


def _paper_row(method: str, backbone: str, linear: float, knn10: float, knn20: float) -> ZooRow:
    return ZooRow(
        f"{method}-{backbone}",
        method,
        backbone,
        paper={"imagenet_linear_top1": linear, "imagenet_knn10_top1": knn10, "imagenet_knn20_top1": knn20},
        licence=_AUTHORS_LICENCE,
        how_to_obtain=_FROM_AUTHORS.format(method=method, backbone=backbone),
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
    """Where a checkpoint of this short name is, or would be, installed.

    Args:
        name: Short name; letters, digits, dots, dashes and underscores.

    Raises:
        ValueError: If the name could leave the directory.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a checkpoint name: use up to 96 letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit."
        )
    return home_directory() / "checkpoints" / name


def installed_directory(name: str) -> Path | None:
    """The directory of an installed checkpoint, or None; names that are none are simply not installed."""
    if not _NAME.fullmatch(name):
        return None
    directory = checkpoint_directory(name)
    return directory if (directory / "config.json").is_file() else None


def list_models() -> list[ZooRow]:
    """Every checkpoint of the zoo, then the installed ones that are not in it, each with where it is installed."""
    installed = {
        directory.name: str(directory)
        for directory in sorted((home_directory() / "checkpoints").glob("*"))
        if installed_directory(directory.name)
    }
    others = [
        ZooRow(name, None, None, how_to_obtain="installed on this computer") for name in installed if name not in ZOO
    ]
    return [replace(row, installed=installed.get(row.name)) for row in (*ZOO.values(), *others)]
