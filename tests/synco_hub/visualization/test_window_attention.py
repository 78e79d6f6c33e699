"""Unfolding undoes the window partition of each library; maps against the models' own attentions."""

import pytest
import timm
import torch
from timm.models.swin_transformer import window_partition
from transformers import SwinConfig, SwinModel

from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.visualization import attention_maps, unfold_windows, window_attention


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
