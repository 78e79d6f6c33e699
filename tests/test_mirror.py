"""Every source file has the test file of its name at the same place below `tests/`."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What holds no logic of its own: the doors of packages and of `python -m`.
EXEMPT = {"__init__.py", "__main__.py"}


def sources(package: str) -> list[Path]:
    found = [path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")]
    return sorted(path for path in found if path.name not in EXEMPT)


@pytest.mark.parametrize("package", ["synco_hub", "trainers", "space_app"])
def test_every_source_has_a_test_file(package):
    assert len(sources(package)) > 5
    missing = [
        path.as_posix()
        for path in sources(package)
        if not (ROOT / "tests" / path.parent / f"test_{path.name}").is_file()
    ]
    assert missing == [], f"write tests/<same path>/test_<same name>.py for {', '.join(missing)}"


@pytest.mark.parametrize("package", ["synco_hub", "trainers", "space_app"])
def test_every_mirrored_test_file_tests(package):
    for path in sources(package):
        mirrored = ROOT / "tests" / path.parent / f"test_{path.name}"
        if mirrored.is_file():
            assert "\ndef test_" in mirrored.read_text(encoding="utf-8"), f"{mirrored} holds no test"
