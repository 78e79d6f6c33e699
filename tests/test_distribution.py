"""The wheel, installed outside the checkout, carries everything that a run needs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LARGEST_WHEEL_BYTES = 20_000_000


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel built from this checkout and unpacked into a folder of its own."""
    dist, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = dist.glob("*.whl")
    assert wheel.stat().st_size < LARGEST_WHEEL_BYTES
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return target


def test_the_wheel_carries_cards_recipes_tables_and_the_space(installed):
    for path in (
        "synco_hub/py.typed",
        "synco_hub/model_cards/card_template.md",
        "synco_hub/paper_tables/table12_knn.csv",
        "trainers/recipes/synco-v2-deit-s.yaml",
        "trainers/py.typed",
        "space_app/app.py",
        "space_app/README.md",
        "space_app/requirements.txt",
    ):
        assert (installed / path).is_file(), path
    carried = {path.relative_to(installed) for path in installed.rglob("*.py")}
    for package in ("synco_hub", "trainers", "space_app"):
        sources = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        assert sources <= carried


def test_the_installed_package_works_away_from_the_checkout(installed, tmp_path):
    code = (
        "import synco_hub, trainers.recipe, synco_hub.hub.card.facts as files; "
        "assert 'site' in synco_hub.__file__, synco_hub.__file__; "
        "print(files.find_package_file('model_cards', 'card_template.md').is_file(), "
        "'synco-v2-deit-s' in trainers.recipe.list_recipes(), synco_hub.__version__)"
    )
    environment = {"PYTHONPATH": str(installed), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True", "0.1.0"]


def test_the_checkpoints_that_ship_are_in_the_wheel_whole_and_load_by_their_names(installed, tmp_path):
    shipped, ours = (folder / "synco_hub" / "checkpoints" for folder in (installed, ROOT))
    files = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
    assert len(files) > 20
    assert [file for file in files if (shipped / file).read_bytes() != (ours / file).read_bytes()] == []
    code = (
        "import synco_hub; from transformers import AutoImageProcessor, AutoModel; "
        "names = [row.name for row in synco_hub.list_models() if row.embedded]; "
        "[auto.from_pretrained(name) for name in names for auto in (AutoModel, AutoImageProcessor)]; print(len(names))"
    )
    environment = {"PYTHONPATH": str(installed), "PATH": "", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3"]
    assert not list(shipped.rglob("*.pyc"))


def test_constraints_name_versions_and_no_address():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all("==" in line and "://" not in line for line in lines if line and not line.startswith("#"))
    names = {line.split("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {requirement.split(">")[0].split("=")[0].lower() for requirement in project["dependencies"]}
    assert required <= names
