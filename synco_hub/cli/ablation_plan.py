"""The plan of an ablation: what all its runs share, written before the first and kept to by every later call."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from synco_hub.atomic_write import atomic_write

PLAN_FILE = "ablation_plan.json"
# What the demonstration's settings once were, and no run can be told any more.
RETIRED_FLAGS = ("--augment-on=reference",)


def read_plan(directory: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs that are there share, empty where none began; another plan than theirs is refused."""
    file = directory / PLAN_FILE
    if not file.is_file():
        return {}
    kept: dict[str, Any] = json.loads(file.read_text())
    earlier, now = set(kept["flags"]), set(plan["flags"])
    if kept.get("contents") is not None and kept["contents"] == plan.get("contents"):
        # The same images, wherever they lie now.
        earlier, now = (_without_places(each["flags"]) for each in (kept, plan))
    retired = sorted(flag for flag in earlier - now if flag.replace("_", "-") in RETIRED_FLAGS)
    if retired:
        raise ValueError(
            f"{directory} holds an ablation that an earlier version began with {', '.join(retired)}, which this "
            "one does not have: its runs cannot be finished alike. Give another --output-dir, or finish it with "
            "the version that began it."
        )
    if earlier != now:
        raise ValueError(
            f"{directory} holds an ablation with other settings (then {', '.join(sorted(earlier - now)) or '-'}; "
            f"now {', '.join(sorted(now - earlier)) or '-'}): give the same ones, or another --output-dir."
        )
    if ("equal_time" in kept) != ("equal_time" in plan):
        equal, remedy = ("time", "give --equal-time") if "equal_time" in kept else ("steps", "leave --equal-time out")
        raise ValueError(f"{directory} holds an ablation at equal {equal}: {remedy}, or give another --output-dir.")
    for arm, said in plan.get("recipes", {}).items():
        was = kept.get("recipes", {}).get(arm, said)
        changed = sorted(name for name in {*was, *said} if was.get(name) != said.get(name))
        if changed:
            raise ValueError(
                f"{directory} holds an ablation with recipe {arm} as it was before a change (then "
                f"{', '.join(f'{name}: {was.get(name)}' for name in changed)}; now "
                f"{', '.join(f'{name}: {said.get(name)}' for name in changed)}): change it back, or give another "
                "--output-dir."
            )
    return kept


def keep_to_the_plan(directory: Path, plan: Mapping[str, Any]) -> bool:
    """Record what all runs share, so that runs of another budget never enter the same table; True where it is new."""
    kept = read_plan(directory, plan)
    merged = dict(kept or plan)
    for name in {"recipes", "equal_time"} & set(plan):
        merged[name] = {**kept.get(name, {}), **plan[name]}  # arms can be added
    if merged != kept:
        with atomic_write(directory / PLAN_FILE) as temporary:
            temporary.write_text(json.dumps(merged, indent=2) + "\n")
    return not kept


def _without_places(flags: Sequence[str]) -> set[str]:
    """Flags without those that say where the data lies, in one word or in two."""
    return set(re.sub(r"(^|\0)--data([-_]dir|set)[=\0][^\0]*", "", "\0".join(flags)).split("\0"))


def read_recipes(names: Sequence[str], flags: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What recipes say where none of the flags does that win over them, as it stands in JSON."""
    words = [flag.partition("=")[0] for flag in flags if flag.startswith("--")]
    beaten = {word.removeprefix("--").replace("-", "_") for word in words}
    settings = {
        name: {str(key): value for key, value in said.items() if str(key).replace("-", "_") not in beaten}
        for name in names
        if (said := _read_recipe(name)) is not None
    }
    recorded: dict[str, dict[str, Any]] = json.loads(json.dumps(settings, default=str))
    return recorded


def _read_recipe(name: str) -> dict[Any, Any] | None:
    """The settings of a recipe; None where its run will say what is wrong with it."""
    file, _, variant = name.partition("/")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        # Nothing here may import the trainers, which own the recipes.
        trainers = importlib.util.find_spec("trainers")
        places = [] if trainers is None else list(trainers.submodule_search_locations or [])
        path = Path(*places[:1], "recipes", f"{file}.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if isinstance(values, dict) and set(values) == {"base", "variants"}:
        values = {**(values["base"] or {}), **(values["variants"].get(variant) or {})}
    return values if isinstance(values, dict) else None
