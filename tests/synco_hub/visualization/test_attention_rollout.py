"""Rollout against a numpy loop over tokens, limits, and a model's own attentions."""

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTModel

from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.visualization import attention_rollout, rollout


def random_attention(blocks: int, seed: int, tokens: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(2 * torch.randn(2, 3, tokens, tokens, generator=generator)).softmax(-1) for _ in range(blocks)]


def loop(attentions: list[np.ndarray]) -> np.ndarray:
    """Follows the flow from every output token back through the blocks, one token at a time."""
    batch, heads, tokens, _ = attentions[0].shape
    result = np.zeros((batch, tokens, tokens))
    for image in range(batch):
        for output in range(tokens):
            flow = np.zeros(tokens)
            flow[output] = 1.0
            for attention in reversed(attentions):
                before = np.zeros(tokens)
                for reader in range(tokens):
                    before[reader] += 0.5 * flow[reader]
                    for read in range(tokens):
                        before[read] += 0.5 * flow[reader] * attention[image, :, reader, read].sum() / heads
                flow = before
            result[image, output] = flow
    return result


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_rollout_equals_the_loop(blocks):
    attentions = random_attention(blocks, blocks)
    np.testing.assert_allclose(rollout(attentions), loop([each.double().numpy() for each in attentions]), atol=1e-6)


def test_limits():
    eye = torch.eye(5).expand(1, 2, 5, 5)
    assert torch.equal(rollout([eye, eye])[0], torch.eye(5))
    torch.testing.assert_close(rollout(random_attention(4, 0)).sum(-1), torch.ones(2, 7))
    with pytest.raises(ValueError, match="at least one block"):
        rollout([])


@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_a_fused_model_is_rolled_out_like_its_own_attentions(size):
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone="vit-nano")).eval()
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        attentions = model(pixels, output_attentions=True, interpolate_pos_encoding=True).attentions
    expected = loop([each.double().numpy() for each in attentions])[:, 0, 1:]
    found = attention_rollout(model, pixels)
    assert found.shape == (2, size[0] // 8, size[1] // 8)
    np.testing.assert_allclose(found.flatten(1), expected, atol=1e-5)


def test_a_stock_vit_is_rolled_out_and_a_swin_refused():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    pixels = torch.randn(1, 3, 16, 16)
    found = attention_rollout(model, pixels)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(pixels, output_attentions=True).attentions
    np.testing.assert_allclose(found.flatten(1), loop([each.numpy() for each in attentions])[:, 0, 1:], atol=1e-5)
    with pytest.raises(ValueError, match="within windows"):
        attention_rollout(SynCoModel(SynCoConfig(backbone="swin-nano")), torch.randn(1, 3, 32, 32))
