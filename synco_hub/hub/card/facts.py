"""What a card says beyond configuration and measurements: one YAML file a checkpoint, written by people.

The zoo's files lie in `model_cards/`; a checkpoint of one's own carries `card_facts.yaml` beside its weights.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from synco_hub.atomic_write import atomic_write

_PACKAGE = Path(__file__).resolve().parents[2]
FACTS_FILE = "card_facts.yaml"
_LISTS = ("datasets", "limits", "how_to_obtain")


def find_package_file(*parts: str) -> Path:
    """The path of a file that is shipped inside the wheel, or stands at the top of a checkout."""
    for root in (_PACKAGE, _PACKAGE.parent):
        candidate = root.joinpath(*parts)
        if candidate.exists():
            return candidate
    raise FileNotFoundError(
        f"{'/'.join(parts)} is missing from the installation of synco_hub at {_PACKAGE}: install the package again."
    )


@dataclass(frozen=True)
class CardFacts:
    """The fields of a facts file; every one may be left out.

    Attributes:
        loaded_by: What `from_pretrained` takes on the card; the directory's name where nothing is said.
        title: Heading of the card.
        summary: What it is, in a sentence or two.
        licence: Identifier of the Hub's list, or `other`.
        licence_name: Name of the licence where it is `other`.
        licence_link: Where it can be read.
        licence_note: The situation in words.
        paper: `method` and `backbone` as the paper's tables print them; its numbers then stand on the card, marked.
        training_data: What it was trained on.
        datasets: Identifiers of these data sets on the Hub.
        recipe: How it was trained, with where that is written.
        limits: What it was not made for and not studied on, one entry each.
        broader_impact: Consequences of use.
        how_to_obtain: The ways to have it, one entry each.
    """

    loaded_by: str | None = None
    title: str | None = None
    summary: str | None = None
    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    licence_note: str | None = None
    paper: dict[str, str] | None = None
    training_data: str | None = None
    datasets: tuple[str, ...] = ()
    recipe: str | None = None
    limits: tuple[str, ...] = ()
    broader_impact: str | None = None
    how_to_obtain: tuple[str, ...] = ()


_FIELDS = {field.name: field for field in dataclasses.fields(CardFacts)}


def list_facts() -> list[str]:
    """Zoo names that have a facts file, sorted."""
    return sorted(path.stem for path in find_package_file("model_cards").glob("*.yaml"))


def read_zoo_facts(name: str) -> CardFacts:
    """The facts of a checkpoint of the zoo."""
    if name not in list_facts():
        raise ValueError(f"no facts are known about {name!r}: choose one of {', '.join(list_facts())}, or a YAML file")
    return read_facts(find_package_file("model_cards", f"{name}.yaml"))


def read_facts(path: Path) -> CardFacts:
    """Read a facts file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must be a mapping of {', '.join(_FIELDS)}, not a {type(values).__name__}")
    if unknown := sorted(map(str, set(values) - set(_FIELDS))):
        raise ValueError(f"{path} has unknown fields {', '.join(unknown)}: a card shows {', '.join(_FIELDS)}")
    return CardFacts(**{key: _checked(path, key, value) for key, value in values.items()})


def _checked(path: Path, key: str, value: Any) -> Any:
    if key in _LISTS:
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry.strip() for entry in value):
            raise ValueError(f"{path}: {key} must be a list of texts, not {value!r}")
        return tuple(" ".join(entry.split()) for entry in value)
    if key == "paper":
        if not isinstance(value, dict) or set(value) != {"method", "backbone"}:
            raise ValueError(f"{path}: paper must have method and backbone as the tables print them, not {value!r}")
        return {name: str(text) for name, text in value.items()}
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{path}: {key} must be a text, not {value!r}")
    return value.strip()


def write_facts(path: Path, facts: CardFacts) -> None:
    """Write the fields that are set; reading gives the same facts."""
    values = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(facts).items()
        if value not in (None, (), [])
    }
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100), encoding="utf-8")
