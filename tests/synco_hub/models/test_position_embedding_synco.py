import math

import pytest
import timm
import torch

from synco_hub.models.position_embedding_synco import set_sincos_position_embedding, sincos_position_embedding


def _slow(height: int, width: int, dim: int, temperature: float) -> list[list[float]]:
    quarter = dim // 4
    rows = []
    for row in range(height):
        for column in range(width):
            vector = [0.0] * dim
            for i in range(quarter):
                frequency = 1.0 / temperature ** (i / quarter)
                vector[i] = math.sin(row * frequency)
                vector[quarter + i] = math.cos(row * frequency)
                vector[2 * quarter + i] = math.sin(column * frequency)
                vector[3 * quarter + i] = math.cos(column * frequency)
            rows.append(vector)
    return rows


@pytest.mark.parametrize(
    ("height", "width", "dim", "temperature"), [(14, 14, 384, 10000.0), (3, 5, 8, 10000.0), (6, 2, 20, 100.0)]
)
def test_equals_a_slow_loop(height, width, dim, temperature):
    table = sincos_position_embedding(height, width, dim, temperature)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table, torch.tensor(_slow(height, width, dim, temperature)), rtol=0, atol=1e-7)


def test_known_properties():
    table = sincos_position_embedding(7, 4, 16)
    # sin² + cos² = 1 in every pair: the squared norm is half the number of channels.
    torch.testing.assert_close(table.square().sum(dim=1), torch.full((28,), 8.0))
    # The inner product of two places depends on their distance alone.
    grid = table.view(7, 4, 16)
    torch.testing.assert_close((grid[1, 0] * grid[3, 2]).sum(), (grid[4, 1] * grid[6, 3]).sum())
    # No two places are alike.
    assert torch.pdist(table).min() > 0.1


@pytest.mark.parametrize("dim", [2, 6, 383])
def test_channels_that_cannot_be_quartered_are_refused(dim):
    with pytest.raises(ValueError, match=rf"embed_dim={dim} is not divisible by 4.*position_embedding='learned'"):
        sincos_position_embedding(3, 3, dim)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_is_written_behind_the_prefix_tokens_and_frozen(name):
    network = timm.create_model(name, depth=1, img_size=(48, 80))
    prefix = network.num_prefix_tokens
    before = network.pos_embed
    set_sincos_position_embedding(network)
    assert network.pos_embed is before
    assert isinstance(network.pos_embed, torch.nn.Parameter)
    assert not network.pos_embed.requires_grad
    assert torch.equal(network.pos_embed[:, :prefix], torch.zeros(1, prefix, 192))
    assert torch.equal(network.pos_embed[0, prefix:], sincos_position_embedding(3, 5, 192))


def test_on_the_meta_device_it_is_frozen_and_nothing_is_computed():
    with torch.device("meta"):
        network = timm.create_model("vit_tiny_patch16_224", depth=1)
    set_sincos_position_embedding(network)
    assert network.pos_embed.is_meta
    assert not network.pos_embed.requires_grad
