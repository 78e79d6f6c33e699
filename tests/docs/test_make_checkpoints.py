"""What ships is made of runs of the demonstration, and holds when it is verified."""

import hashlib
import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from command_line import invoke

from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.zoo import CHECKSUMS_FILE, EMBEDDED, ZOO


@pytest.fixture(scope="module")
def make_checkpoints():
    path = Path(__file__).resolve().parents[2] / "docs" / "make_checkpoints.py"
    specification = importlib.util.spec_from_file_location("make_checkpoints", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def write_run(directory: Path, method: str) -> None:
    """What the demonstration leaves, of a network that is not trained; tests/synco_hub/cli/test_demo.py trains one."""
    shutil.copytree(EMBEDDED / directory.name, directory)
    torch.manual_seed(len(method))
    SynCoModel(SynCoConfig(backbone="vit-nano", pretraining={"method": method})).save_pretrained(directory)
    (directory / "training_curve.png").touch()


def test_runs_become_checkpoints_that_verify(make_checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for method in make_checkpoints.METHODS:
        write_run(Path("runs", f"{method}-vit-nano"), method)
    capsys.readouterr()
    output = tmp_path / "checkpoints"
    make_checkpoints.main(["--runs", "runs", "--output", str(output)])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split('"')[1] for row in rows] == list(make_checkpoints.METHODS)
    made = {path.name: path for path in output.iterdir() if path.is_dir()}
    assert sorted(made) == sorted(name for name, row in ZOO.items() if row.weights)
    for directory in made.values():
        assert {file.name for file in directory.iterdir()} == {
            file.name for file in (EMBEDDED / directory.name).iterdir()
        }
        assert not any(str(tmp_path) in file.read_text(errors="replace") for file in directory.glob("*.*"))
    for line in (output / CHECKSUMS_FILE).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((output / name).read_bytes()).hexdigest() == digest
    assert invoke(["card", "verify", str(made["byol-vit-nano"]), "--tolerance", "0.2"]).exit_code == 0


def test_the_rows_of_the_zoo_are_as_it_prints_them(make_checkpoints):
    source = (EMBEDDED.parent / "zoo.py").read_text(encoding="utf-8")
    for method in make_checkpoints.METHODS:
        assert make_checkpoints.spell_row(method, EMBEDDED / f"{method}-vit-nano") in source
