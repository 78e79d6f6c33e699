"""Putting a checkpoint where short names find it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

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
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".installing-") as temporary:
        staged = Path(temporary) / "new"
        staged.mkdir()
        for pattern in PATTERNS:
            for file in directory.glob(pattern):
                shutil.copy2(file, staged / file.name)
        facts = dict(origin or {"source": str(directory.resolve())})
        (staged / ORIGIN_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        if destination.exists():
            destination.rename(Path(temporary) / "old")
        staged.rename(destination)
    return destination
