"""Recipes: YAML files of flags, nothing but what differs from the defaults.

A file holds one recipe, or a set of them: what all share under `base`, and under `variants` one mapping a name. A
variant is called `file/variant`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from synco_hub.errors import suggest

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
_SET = {"base", "variants"}


def recipe_names() -> list[str]:
    """Names of the recipes that the package carries."""
    names: list[str] = []
    for path in sorted(RECIPES.glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        names += [f"{path.stem}/{name}" for name in values["variants"]] if _is_set(values) else [path.stem]
    return names


def recipe_flags(name_or_path: str, known: Sequence[str]) -> list[str]:
    """Read a recipe as command-line flags, to be put before the user's own, which win.

    Args:
        name_or_path: A name of `recipe_names()` or the path of a YAML file.
        known: Names of the flags there are, with underscores.

    Raises:
        ValueError: If there is no such recipe, it is not a flat mapping, or it has an unknown key; names the nearest.
    """
    return as_flags(_settings(name_or_path), known, f"recipe {name_or_path}")


def as_flags(settings: Mapping[str, Any], known: Sequence[str], origin: str) -> list[str]:
    """Settings as command-line flags.

    Args:
        settings: Values by name, with dashes or underscores; a list gives several words.
        known: Names of the flags there are, with underscores.
        origin: Where the settings come from, for the message.

    Raises:
        ValueError: If a name is unknown; names the nearest.
    """
    flags: list[str] = []
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise ValueError(f"{origin} has an unknown key {key!r}.{suggest(name, known)}")
        flags += [f"--{name}", *(_words(value))]
    return flags


def _settings(name_or_path: str) -> dict[str, Any]:
    """What a recipe sets, by name of the flag."""
    path, variant = Path(name_or_path), None
    if path.suffix not in (".yaml", ".yml"):
        file, _, variant = name_or_path.partition("/")
        path = RECIPES / f"{file}.yaml"
    if not path.is_file():
        raise _unknown(name_or_path)
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} is a {type(values).__name__}: write one `flag: value` a line.")
    if not _is_set(values):
        if variant:
            raise _unknown(name_or_path)
        return values
    if variant not in values["variants"]:
        raise _unknown(name_or_path)
    return {**values["base"], **(values["variants"][variant] or {})}


def _is_set(values: Any) -> bool:
    return isinstance(values, dict) and set(values) == _SET


def _unknown(name: str) -> ValueError:
    nearest = suggest(name, recipe_names())
    plain = [known for known in recipe_names() if "/" not in known]
    sets = sorted({known.split("/")[0] for known in recipe_names() if "/" in known})
    return ValueError(
        f"recipe {name!r} does not exist: use one of {', '.join(plain)}, a variant of {', '.join(sets)} (such as "
        f"{sets[0]}/all), or the path of a YAML file.{nearest}"
    )


def _words(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
