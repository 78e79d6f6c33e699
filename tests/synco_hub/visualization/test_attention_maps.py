"""Maps against loops over patches, closed forms, and DINO's threshold written out.

Rollout against a numpy loop over tokens, limits, and a model's own attentions; unfolding undoes each library's
partition into windows.
"""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.swin_transformer import window_partition
from torch import Tensor
from transformers import SwinConfig, SwinModel, ViTConfig, ViTModel

from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.visualization import (
    AttentionMaps,
    attention_maps,
    attention_rollout,
    class_attention,
    mass_mask,
    patch_self_attention,
    rollout,
    unfold_windows,
    window_attention,
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


def attention_of_blocks(blocks: int, seed: int, tokens: int = 7) -> list[torch.Tensor]:
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
    attentions = attention_of_blocks(blocks, blocks)
    np.testing.assert_allclose(rollout(attentions), loop([each.double().numpy() for each in attentions]), atol=1e-6)


def test_limits():
    eye = torch.eye(5).expand(1, 2, 5, 5)
    assert torch.equal(rollout([eye, eye])[0], torch.eye(5))
    torch.testing.assert_close(rollout(attention_of_blocks(4, 0)).sum(-1), torch.ones(2, 7))
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


@pytest.mark.parametrize("pads_first", [True, False])
@pytest.mark.parametrize(
    ("grid", "shift"), [((8, 12), (0, 0)), ((8, 12), (2, 2)), ((7, 10), (2, 1)), ((3, 4), (0, 0))]
)
def test_unfolding_puts_every_token_back_where_it_was(grid, shift, pads_first):
    rows, columns = grid
    numbers = torch.arange(2.0 * rows * columns).reshape(2, rows, columns, 1)
    pad = torch.nn.ConstantPad2d((0, -columns % 4, 0, -rows % 4), -1.0)
    back = (-shift[0], -shift[1])
    rolled_last, rolled_first = pad(numbers[..., 0]).roll(back, dims=(1, 2)), pad(numbers[..., 0].roll(back, (1, 2)))
    cut = rolled_last if pads_first else rolled_first
    windows = window_partition(cut[..., None], (4, 4)).reshape(-1, 16)
    assert torch.equal(unfold_windows(windows, grid, (4, 4), shift, pads_first), numbers[..., 0])


def received(weights: torch.Tensor) -> torch.Tensor:
    """By a loop: mean attention from the others of the window, heads averaged."""
    mean = weights.mean(dim=1)
    tokens = mean.shape[-1]
    return torch.stack(
        [sum(mean[:, giver, taker] for giver in range(tokens) if giver != taker) for taker in range(tokens)], dim=1
    ) / (tokens - 1)


@pytest.mark.parametrize("block", [0, 1, -1])
def test_maps_of_our_swin_are_its_attentions_put_back(block):
    torch.manual_seed(0)
    model, pixels = SynCoModel(SynCoConfig(backbone="swin-nano")).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        weights = model(pixels, output_attentions=True).attentions[block]
    blocks = [module for stage in model.backbone.layers for module in stage.blocks]
    chosen = blocks[block]
    grid = chosen.input_resolution
    expected = unfold_windows(received(weights), grid, chosen.window_size, chosen.shift_size)
    found = window_attention(model, pixels, block)
    assert found.shape == (2, *grid)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_maps_of_a_stock_swin(implementation):
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=24, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[1, 2], window_size=5, drop_path_rate=0.0
    )
    model = SwinModel(config, add_pooling_layer=False).eval()
    model.set_attn_implementation("eager")
    pixels = torch.randn(1, 3, 24, 24)
    with torch.no_grad():
        weights = model(pixels, output_attentions=True).attentions[0]  # of the stage's last block
    model.set_attn_implementation(implementation)
    found = window_attention(model, pixels, 1)
    expected = unfold_windows(received(weights), (12, 12), (5, 5), (2, 2), pads_first=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_timm_swin_at_224_attends_over_the_whole_image_in_its_last_block():
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, embed_dim=8, depths=(1, 1), num_heads=(1, 2), num_classes=0
    ).eval()
    found = window_attention(model, torch.randn(1, 3, 56, 56))
    assert found.shape == (1, 7, 7)
    assert float(found.sum()) == pytest.approx(1.0, abs=0.1)  # each token gives 1, less what it keeps


def test_what_does_not_fit_is_refused():
    pixels = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="is no Swin"):
        window_attention(SynCoModel(SynCoConfig(backbone="vit-nano")), pixels)
    swin = SynCoModel(SynCoConfig(backbone="swin-nano"))
    with pytest.raises(ValueError, match="block=99"):
        window_attention(swin, pixels, 99)
    with pytest.raises(ValueError, match="Grad-CAM"):
        attention_maps(swin, pixels)
