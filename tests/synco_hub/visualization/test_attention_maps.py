"""Maps against loops over patches, closed forms, and DINO's threshold written out."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.visualization import (
    AttentionMaps,
    attention_maps,
    class_attention,
    mass_mask,
    patch_self_attention,
)
from synco_hub.visualization.attention_maps import upsample


def random_attention(tokens: int, batch: int = 2, heads: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, heads, tokens, tokens, generator=generator) * 2).softmax(dim=-1)


@pytest.mark.parametrize("prefix", [1, 2, 5])
def test_class_and_patch_attention_equal_loops(prefix: int) -> None:
    weights = random_attention(prefix + 6)
    cls, patch = class_attention(weights, prefix), patch_self_attention(weights, prefix)
    for image in range(2):
        for receiving in range(6):
            for head in range(3):
                assert cls[image, head, receiving] == weights[image, head, 0, prefix + receiving]
            received = [
                float(weights[image, head, prefix + giving, prefix + receiving])
                for head in range(3)
                for giving in range(6)
                if giving != receiving
            ]
            assert float(patch[image, receiving]) == pytest.approx(np.mean(received), rel=1e-5)


def test_even_attention_gives_even_maps_and_looking_at_oneself_counts_nothing() -> None:
    even = torch.full((1, 2, 5, 5), 0.2)
    torch.testing.assert_close(patch_self_attention(even), torch.full((1, 4), 0.2))
    assert torch.equal(patch_self_attention(torch.eye(5).expand(1, 2, 5, 5)), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="1 patch has no other patch"):
        patch_self_attention(torch.ones(1, 1, 2, 2))


def dino_threshold(attention: np.ndarray, mass: float) -> np.ndarray:
    order = np.argsort(attention)
    rising = np.cumsum(attention[order]) / attention.sum()
    kept = np.zeros(len(attention), dtype=bool)
    kept[order] = rising > 1 - mass
    return kept


@pytest.mark.parametrize("mass", [0.1, 0.6, 0.95])
def test_the_threshold_is_dinos(mass: float) -> None:
    maps = torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mask = mass_mask(maps, mass)
    for attention, kept in zip(maps, mask, strict=True):
        np.testing.assert_array_equal(kept.flatten().numpy(), dino_threshold(attention.flatten().numpy(), mass))


def test_the_threshold_in_numbers() -> None:
    attention = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    assert mass_mask(attention, 0.39).flatten().tolist() == [False, False, False, True]
    assert mass_mask(attention, 0.6).flatten().tolist() == [False, False, True, True]
    assert mass_mask(attention, 1.0).all()
    assert mass_mask(torch.ones(1, 2, 2), 0.5).flatten().tolist() == [True, True, False, False]
    for mass in (0.0, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r"is not in \(0, 1\]"):
            mass_mask(attention, mass)


def test_upsampling_equals_pillow() -> None:
    grid = torch.rand(1, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = Image.fromarray(grid[0].numpy()).resize((32, 60), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(upsample(grid, (60, 32))[0].numpy(), np.asarray(expected), atol=1e-5)
    assert upsample(torch.ones(2, 3, 5, 4), (60, 32)).shape == (2, 3, 60, 32)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_maps_of_a_model_have_the_shapes_of_its_grid(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = SynCoModel(
        SynCoConfig(backbone="deit-s", image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
    ).eval()
    pixel_values = torch.randn(3, 3, *size)
    maps = attention_maps(model, pixel_values)
    grid = (size[0] // 8, size[1] // 8)
    assert maps.cls.shape == maps.patch.shape == (3, *grid)
    assert maps.heads.shape == (3, 4, *grid)
    with torch.no_grad():
        outputs = model(pixel_values, output_attentions=True, interpolate_pos_encoding=True)
    from_cls = outputs.attentions[-1][:, :, 0, 1:].reshape(3, 4, *grid)
    assert (maps.heads - from_cls).abs().max() < 1e-5
    assert (maps.cls - from_cls.mean(dim=1)).abs().max() < 1e-5
    large = maps.upsampled()
    assert large.cls.shape == (3, *size)
    assert large.heads.shape == (3, 4, *size)
    assert maps.upsampled((7, 9)).patch.shape == (3, 7, 9)


def test_attention_follows_the_image_and_not_its_transpose() -> None:
    """One patch is made to draw all attention; it must light up where it is."""
    model = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=(24, 40), patch_size=8, embed_dim=16, depth=1, num_heads=1
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.patch_embed.proj.weight.fill_(1.0)
        model.blocks[0].norm1.weight[0] = 1.0
        model.blocks[0].norm1.bias[1] = 1.0
        model.cls_token[0, 0, 0] = 1.0
        model.patch_embed.proj.weight[1:] = -1.0
        model.blocks[0].attn.qkv.weight[0, 1] = 30.0  # every query is 30 along the first axis
        model.blocks[0].attn.qkv.weight[16, 0] = 1.0  # every key is its first normalised channel
    pixel_values = torch.full((1, 3, 24, 40), -1.0)
    pixel_values[:, :, 8:16, 32:40] = 1.0
    maps = attention_maps(model, pixel_values)
    assert maps.cls.shape == (1, 3, 5)
    assert int(maps.cls.flatten().argmax()) == 1 * 5 + 4
    assert int(maps.patch.flatten().argmax()) == 1 * 5 + 4


def test_thresholded_maps_and_single_images() -> None:
    generator = torch.Generator().manual_seed(2)
    maps = AttentionMaps(
        cls=torch.rand(2, 3, 4, generator=generator),
        patch=torch.rand(2, 3, 4, generator=generator),
        heads=torch.rand(2, 5, 3, 4, generator=generator),
        image_size=(24, 32),
    )
    kept = maps.thresholded()
    share = kept.heads.sum(dim=(2, 3)) / maps.heads.sum(dim=(2, 3))
    assert bool(((share >= 0.6) & (share < 0.8)).all())
    assert torch.equal(kept.cls, maps.cls * mass_mask(maps.cls, 0.6))
    assert len(maps) == 2
    assert torch.equal(maps[1].patch, maps.patch[1:])
    assert torch.equal(maps[-1].heads, maps.heads[1:])
    with pytest.raises(IndexError, match="image 2 of a batch of 2"):
        maps[2]
