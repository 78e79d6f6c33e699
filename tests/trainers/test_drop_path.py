from __future__ import annotations

import copy

import pytest
import torch
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block
from torch import nn

from synco_hub.models import SynCoConfig, SynCoModel
from trainers.drop_path import add_branch, pays_off, skip_dropped_samples

BACKBONES = {
    "vit-nano": {"drop_path_rate": 0.5},
    "swin-nano": {"drop_path_rate": 0.5},
    "swin-v2-t": {"drop_path_rate": 0.5, "image_size": 64, "window_size": 4, "depth": (1, 2, 1, 1), "embed_dim": 24},
}


def branches(backbone: str) -> tuple[SynCoModel, SynCoModel]:
    """The same network twice, one of which skips."""
    torch.manual_seed(0)
    usual = SynCoModel(SynCoConfig(backbone=backbone, **BACKBONES[backbone])).train()
    skipping = copy.deepcopy(usual)
    assert skip_dropped_samples(skipping) > 0
    return usual, skipping


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_same_seed_gives_the_same_features_and_gradients_as_timm(backbone):
    usual, skipping = branches(backbone)
    size = usual.config.image_size
    images = torch.randn(7, 3, size, size, generator=torch.Generator().manual_seed(1))
    found = []
    for network in (usual, skipping):
        torch.manual_seed(2)
        features = network(images).pooler_output
        (features * torch.randn(features.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
        found.append((features.detach(), [p.grad for p in network.parameters() if p.requires_grad], torch.rand(4)))
    (features, gradients, after), (same_features, same_gradients, same_after) = found
    torch.testing.assert_close(same_features, features, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(same_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert torch.equal(after, same_after)  # as many draws from the generator


def test_a_dropped_sample_is_not_computed_and_a_kept_one_is_scaled():
    generator = torch.Generator().manual_seed(0)
    x, seen = torch.randn(400, 3, generator=generator), []

    def branch(kept: torch.Tensor) -> torch.Tensor:
        seen.append(kept)
        return torch.ones_like(kept)

    torch.manual_seed(5)
    found = add_branch(x, branch, DropPath(0.4).train()) - x
    computed = len(seen[0])
    assert 180 < computed < 300  # 240 expected, standard deviation 9.8
    assert int((found[:, 0] > 0.5).sum()) == computed
    torch.testing.assert_close(found[found[:, 0] > 0.5], torch.full((computed, 3), 1 / 0.6), rtol=1e-5, atol=1e-5)
    assert torch.equal(found[found[:, 0] < 0.5], torch.zeros(400 - computed, 3))


def test_on_average_the_branch_is_what_it_is_without_stochastic_depth():
    torch.manual_seed(6)
    x, drop_path = torch.zeros(64, 1), DropPath(0.3).train()
    sums = torch.stack([add_branch(x, lambda kept: kept + 1.0, drop_path).mean() for _ in range(500)])
    assert abs(float(sums.mean()) - 1.0) < 5 * float(sums.std()) / 500**0.5


def test_when_all_are_dropped_every_parameter_still_has_a_gradient():
    layer, x = nn.Linear(3, 3), torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    found = add_branch(x, layer, DropPath(1.0).train())
    assert torch.equal(found, x)
    found.sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in layer.parameters())


@pytest.mark.parametrize("drop_path", [nn.Identity(), DropPath(0.5).eval(), DropPath(0.0).train()])
def test_without_stochastic_depth_nothing_is_skipped_or_drawn(drop_path):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    assert torch.equal(add_branch(x, torch.sin, drop_path), x + torch.sin(x))
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_without_drop_path_and_other_blocks_are_left_alone():
    network = SynCoModel(SynCoConfig(backbone="vit-nano", drop_path_rate=0.0))
    assert skip_dropped_samples(network) == 0

    class Other(Block):
        pass

    assert skip_dropped_samples(nn.Sequential(Other(8, 2, drop_path=0.5))) == 0


def test_weights_keep_their_names():
    usual, skipping = branches("vit-nano")
    assert usual.state_dict().keys() == skipping.state_dict().keys()


def test_it_is_for_eager_training_on_a_cpu():
    assert pays_off(torch.device("cpu"), compiled=False)
    assert not pays_off(torch.device("cpu"), compiled=True)
    assert not pays_off(torch.device("cuda"), compiled=False)
