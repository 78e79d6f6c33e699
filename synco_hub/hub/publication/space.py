"""The Space as a folder that starts anywhere: app, header, third-party requirements and this project's own packages.

The packages are on no index, so they travel along as source; the file `app.py` at the top finds them beside itself.
"""

from __future__ import annotations

import shutil
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import synco_hub
from synco_hub.hub.card.facts import find_package_file
from synco_hub.hub.publication.checks import find_secrets
from synco_hub.hub.publication.publish import UploadPlan

_EXTRA = "space"
_APP = '''"""Starts the page; what it needs lies beside this file."""

from space_app.app import main

if __name__ == "__main__":
    main()
'''
# Of the Space's own folder, these stand at the top of the staged one, the second in another form.
_HEADER, _REQUIREMENTS = "README.md", "requirements.txt"
_NEVER = ("__pycache__", "*.pyc", ".*")


def list_third_party_requirements() -> list[str]:
    """What has to be installed for the page, without this package: its dependencies and those of its extra `space`."""
    project = Path(synco_hub.__file__).parents[1] / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        return sorted([*table["dependencies"], *table["optional-dependencies"][_EXTRA]])
    try:
        lines = metadata.requires("synco-hub") or []
    except metadata.PackageNotFoundError:
        raise OSError("synco-hub is not installed, so nobody knows its requirements: install it with pip.") from None
    wanted = []
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": _EXTRA}):
            requirement.marker = None
            wanted.append(str(requirement))
    return sorted(wanted)


def stage_space(folder: Path) -> UploadPlan:
    """Write the folder that becomes a Space."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: choose another one with --output, or empty it.")
    folder.mkdir(parents=True, exist_ok=True)
    app = find_package_file("space_app")
    never = shutil.ignore_patterns(*_NEVER)
    shutil.copytree(app, folder / "space_app", ignore=shutil.ignore_patterns(*_NEVER, _HEADER, _REQUIREMENTS))
    shutil.copytree(Path(synco_hub.__file__).parent, folder / "synco_hub", ignore=never)
    if not (folder / "synco_hub" / "model_cards").exists():
        shutil.copytree(find_package_file("model_cards"), folder / "model_cards", ignore=never)
    shutil.copy2(app / _HEADER, folder / _HEADER)
    (folder / _REQUIREMENTS).write_text("\n".join(list_third_party_requirements()) + "\n", encoding="utf-8")
    (folder / "app.py").write_text(_APP, encoding="utf-8")
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    if problems := find_secrets(files.values()):
        raise ValueError(f"the Space is not fit to be published: {'; '.join(problems)}.")
    return UploadPlan(files, ())
