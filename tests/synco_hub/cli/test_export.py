"""`synco_hub.cli.export` by the command line, as a user calls it."""

import json

import pytest
from typer.testing import CliRunner

from synco_hub.cli.main import app
from synco_hub.hub.pull import install_checkpoint
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


@pytest.fixture
def installed(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    SynCoModel(SynCoConfig("vit-nano")).save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    install_checkpoint(tmp_path / "model", "moby-vit-nano")
    return "moby-vit-nano"


@pytest.mark.parametrize("format_name", ["transformers", "timm", "safetensors"])
def test_a_short_name_is_exported(tmp_path, installed, format_name):
    output = tmp_path / "out"
    result = CliRunner().invoke(app, ["export", installed, "--format", format_name, "--output", str(output)])
    assert result.exit_code == 0, result.output
    report = json.loads((output / "export_report.json").read_text())
    assert report["format"] == format_name
    assert report["difference"] <= 1e-5
    assert f"wrote {output}" in result.output.replace("\n", "")
    assert report["how_to_load"] in (output / "README.md").read_text()


def test_faults_are_told(tmp_path, installed):
    wrong = CliRunner().invoke(app, ["export", installed, "--format", "pickle", "--output", str(tmp_path / "out")])
    assert wrong.exit_code == 1
    assert "use one of transformers, timm, onnx, safetensors" in str(wrong.exception)
    absent = CliRunner().invoke(app, ["export", "byol-vit-nano", "--output", str(tmp_path / "out")])
    assert absent.exit_code == 1
    assert "not on this computer" in str(absent.exception)
    assert not (tmp_path / "out").exists()


def test_help_has_an_example():
    text = " ".join(CliRunner().invoke(app, ["export", "--help"]).output.split())
    assert "Example: synco-hub export" in text
