"""What a package exports is documented in full: a summary, every argument, and what an error means."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def exporting_packages() -> list[str]:
    files = [path for name in ("synco_hub", "trainers", "space_app") for path in (ROOT / name).rglob("__init__.py")]
    doors = [path for path in files if "__all__" in path.read_text(encoding="utf-8")]
    return sorted(".".join(path.parent.relative_to(ROOT).parts) for path in doors)


def exported() -> list[tuple[str, str]]:
    return [
        (package, name)
        for package in exporting_packages()
        for name in importlib.import_module(package).__all__
        if callable(getattr(importlib.import_module(package), name))
    ]


def undocumented_arguments(thing: object) -> list[str]:
    """Parameters that the docstring does not describe; fields of a dataclass may stand under Attributes."""
    text = inspect.getdoc(thing) or ""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return []
    named = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [name for name in named if name != "self" and f"{name}:" not in text and f"{name} (" not in text]


def test_packages_export_something():
    assert {"synco_hub", "synco_hub.data", "synco_hub.metrics", "trainers"} <= set(exporting_packages())
    assert len(exported()) > 60


@pytest.mark.parametrize(("package", "name"), exported(), ids=lambda value: value)
def test_every_export_has_a_summary_and_describes_its_arguments(package, name):
    thing = getattr(importlib.import_module(package), name)
    text = inspect.getdoc(thing) or ""
    assert text.split("\n")[0].endswith((".", ":", "?")), f"{package}.{name} has no sentence"
    if inspect.isfunction(thing):
        assert undocumented_arguments(thing) == []


def test_a_function_of_the_package_that_raises_says_so():
    silent = []
    for package, name in exported():
        thing = getattr(importlib.import_module(package), name)
        if inspect.isfunction(thing):
            tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(thing)))
            if any(isinstance(node, ast.Raise) for node in ast.walk(tree)) and "Raises:" not in (thing.__doc__ or ""):
                silent.append(f"{package}.{name}")
    assert silent == []


def test_a_missing_argument_is_found():
    def example(images: object, size: int) -> None:
        """Does something.

        Args:
            images: Of a data set.
        """

    assert undocumented_arguments(example) == ["size"]
