"""Recipes: YAML files of flags, nothing but what differs from the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from synco_hub.models.backbones_synco import suggest

RECIPES = Path(__file__).resolve().parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that the package carries."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_flags(name_or_path: str, known: Sequence[str]) -> list[str]:
    """Read a recipe as command-line flags, to be put before the user's own, which win.

    Args:
        name_or_path: A name of `recipe_names()` or the path of a YAML file.
        known: Names of the flags there are, with underscores.

    Raises:
        ValueError: If there is no such recipe, it is not a flat mapping, or it has an unknown key; names the nearest.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ValueError(
            f"recipe {name_or_path!r} does not exist: use one of {', '.join(recipe_names())}, or the path of a YAML "
            f"file.{suggest(name_or_path, recipe_names())}"
        )
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} is a {type(values).__name__}: write one `flag: value` a line.")
    flags: list[str] = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise ValueError(f"recipe {path} has an unknown key {key!r}.{suggest(name, known)}")
        flags += [f"--{name}", *(_words(value))]
    return flags


def _words(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
