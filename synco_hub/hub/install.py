"""Putting a checkpoint where short names find it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from synco_hub.hub.one_at_a_time import one_at_a_time
from synco_hub.hub.weight_fit import directory_misfit
from synco_hub.zoo import ORIGIN_FILE, checkpoint_directory

# What makes a checkpoint usable and checkable; the optimizer's state and logs of a run stay where they are.
PATTERNS = ("*.json", "*.safetensors", "*.py", "README.md", "LICENSE*", "card_facts.yaml")


def install_checkpoint(directory: Path, name: str, origin: Mapping[str, str] | None = None) -> Path:
    """Copy a checkpoint under a short name, whole or not at all; an installed one of that name is replaced.

    Args:
        directory: A checkpoint directory with `config.json` and weights.
        name: The short name.
        origin: Where it comes from (`source`, and `revision` where there is one); None for the directory itself.

    Returns:
        Where it is installed.

    Raises:
        ValueError: If the directory is no checkpoint, its weights do not fit its configuration, or the name is none.
    """
    destination = checkpoint_directory(name)
    if not (directory / "config.json").is_file() or not any(directory.glob("*.safetensors")):
        raise ValueError(
            f"{directory} is no checkpoint: config.json and a .safetensors file are needed; give the --output-dir of "
            "a finished run."
        )
    try:
        problem = directory_misfit(directory)
    except (SafetensorError, ValueError, RecursionError) as error:
        problem = f"config.json or the weights cannot be read ({' '.join(str(error).split())})"
    if problem:
        named = (origin or {}).get("source", directory)
        raise ValueError(f"{named} is no checkpoint that can be installed: {problem}. Nothing was installed.")
    facts = dict(origin or {"source": str(directory.resolve())})
    with one_at_a_time(f"install-{name}"):
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
        for pattern in PATTERNS:
            for file in directory.glob(pattern):
                shutil.copy2(file, staged / file.name)
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
