"""The tests of a folder name every module of that folder: by an import, or by its dotted path."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What holds no logic of its own: the doors of packages and of `python -m`.
EXEMPT = {"__init__.py", "__main__.py"}


def sources(package: str) -> list[Path]:
    found = [path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")]
    return sorted(path for path in found if path.name not in EXEMPT)


def files_of_tests(folder: Path) -> list[Path]:
    return sorted((ROOT / "tests" / folder).glob("test_*.py"))


def imported(text: str, package: str = "") -> Iterator[tuple[str, str]]:
    """Module and name of every `from module import name`; of a package's door `from .module` too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            module = f"{package}.{node.module}" if node.level else node.module
            yield from ((module, alias.name) for alias in node.names)


def named_modules(text: str) -> set[str]:
    """What a test's text names; a name taken from a package's door names the module behind the door."""
    found = set(re.findall(r"(?<![\w.])(?:synco_hub|trainers|space_app)(?:\.\w+)+", text))
    for module, name in imported(text):
        found |= {module, f"{module}.{name}"}
        door = ROOT / Path(*module.split(".")) / "__init__.py"
        if door.is_file():
            found |= {home for home, public in imported(door.read_text(encoding="utf-8"), module) if public == name}
    return {".".join(parts[:end]) for each in found for parts in [each.split(".")] for end in range(2, len(parts) + 1)}


@pytest.mark.parametrize("package", ["synco_hub", "trainers", "space_app"])
def test_every_module_is_named_by_the_tests_of_its_folder(package):
    assert len(sources(package)) > 5
    named = {
        folder: set().union(*(named_modules(path.read_text(encoding="utf-8")) for path in files_of_tests(folder)))
        for folder in {path.parent for path in sources(package)}
    }
    missing = [path for path in sources(package) if ".".join(path.with_suffix("").parts) not in named[path.parent]]
    assert missing == [], f"import or name in a test of the same folder below tests/: {', '.join(map(str, missing))}"


@pytest.mark.parametrize("package", ["synco_hub", "trainers", "space_app"])
def test_every_test_file_beside_them_tests(package):
    for folder in {path.parent for path in sources(package)}:
        for path in files_of_tests(folder):
            assert "\ndef test_" in path.read_text(encoding="utf-8"), f"{path} holds no test"


def test_a_module_is_named_by_import_by_path_and_through_its_package_alone():
    assert "synco_hub.cli.demo" in named_modules("from synco_hub.cli import demo")
    assert "synco_hub.cli.demo" in named_modules("from synco_hub.cli.demo import SETTINGS")
    assert "synco_hub.cli.demo" in named_modules('monkeypatch.setattr("synco_hub.cli.demo.SETTINGS", {})')
    assert "synco_hub.metrics.accuracy" in named_modules("from synco_hub.metrics import target_ranks")
    assert "synco_hub.metrics.accuracy" not in named_modules("from synco_hub.metrics import operating_points")
    assert "synco_hub.cli.demo" not in named_modules("from synco_hub.cli import demo_steps")
