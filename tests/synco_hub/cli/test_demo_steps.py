import torch

from synco_hub.cli.demo_steps import measure, random_network


def test_the_random_network_is_drawn_from_the_seed_and_guesses_better_than_chance(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    first, again, other = random_network(0), random_network(0), random_network(1)
    weight = "backbone.blocks.0.attn.qkv.weight"
    assert torch.equal(first.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])
    result = measure(first, "random")
    # Ten classes: chance is 10 %; a random projection of images already knows more, and far from everything.
    assert 15 < result.metrics["top1_k10"] < 60
    assert result.training_dataset is not None
    assert (result.training_dataset.count, result.dataset.num_classes) == (1000, 10)
