"""The demonstration trains, measures, installs and draws; its random network is that of the seed."""

import json

import pytest
import torch
from command_line import invoke
from transformers import AutoModel

from synco_hub.cli.demo import measure, save_random_network


def test_demo_trains_measures_installs_and_draws(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    output = tmp_path / "demo"
    result = invoke(["demo", "--output-dir", str(output), "--max-steps", "3", "--method", "moby"])
    assert result.exit_code == 0, result.output
    assert "random network" in result.output
    assert (output / "moby-vit-nano-attention.png").stat().st_size > 2000
    measured = json.loads((output / "moby-vit-nano" / "results_knn_fractals.json").read_text())
    assert 0 < measured["metrics"]["top1_k10"] <= 100
    assert f"| top1_k10 | {measured['metrics']['top1_k10']:.2f} |" in (output / "moby-vit-nano/README.md").read_text()
    assert AutoModel.from_pretrained("moby-vit-nano").config.pretraining["method"] == "moby"
    again = invoke(["demo", "--output-dir", str(output), "--method", "moby"])
    assert isinstance(again.exception, ValueError)


@pytest.mark.parametrize("method", ["mobi"])
def test_a_wrong_method_fails_before_anything_is_written(tmp_path, monkeypatch, method):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    result = invoke(["demo", "--method", method, "--output-dir", str(tmp_path / "demo")])
    assert result.exit_code == 1
    assert not (tmp_path / "demo").exists()


def test_the_random_network_is_drawn_from_the_seed_and_guesses_better_than_chance(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    first, again, other = save_random_network(0), save_random_network(0), save_random_network(1)
    weight = "backbone.blocks.0.attn.qkv.weight"
    assert torch.equal(first.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])
    result = measure(first, "random")
    # Ten classes: chance is 10 %; a random projection of images already knows more, and far from everything.
    assert 15 < result.metrics["top1_k10"] < 60
    assert result.training_dataset is not None
    assert (result.training_dataset.count, result.dataset.num_classes) == (1000, 10)
