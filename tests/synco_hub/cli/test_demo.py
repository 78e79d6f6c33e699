"""`synco_hub.cli.demo` by the command line, as a user calls it."""

import json

import pytest
from transformers import AutoModel
from typer.testing import CliRunner

from synco_hub.cli.main import app


def test_demo_trains_measures_installs_and_draws(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    output = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", "--output-dir", str(output), "--max-steps", "3", "--method", "moby"])
    assert result.exit_code == 0, result.output
    assert "random network" in result.output
    assert (output / "moby-vit-nano-attention.png").stat().st_size > 2000
    measured = json.loads((output / "moby-vit-nano" / "results_knn_fractals.json").read_text())
    assert 0 < measured["metrics"]["top1_k10"] <= 100
    assert f"| top1_k10 | {measured['metrics']['top1_k10']:.2f} |" in (output / "moby-vit-nano/README.md").read_text()
    assert AutoModel.from_pretrained("moby-vit-nano").config.pretraining["method"] == "moby"
    again = CliRunner().invoke(app, ["demo", "--output-dir", str(output), "--method", "moby"])
    assert isinstance(again.exception, ValueError)


@pytest.mark.parametrize("method", ["mobi"])
def test_a_wrong_method_fails_before_anything_is_written(tmp_path, monkeypatch, method):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(app, ["demo", "--method", method, "--output-dir", str(tmp_path / "demo")])
    assert result.exit_code == 1
    assert not (tmp_path / "demo").exists()
