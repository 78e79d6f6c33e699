""""""

import pytest
import timm
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetModel, SwinConfig, SwinModel, ViTConfig, ViTModel

from synco_hub.evaluation.dense_features import (
    choose_stage,
    compute_any_size_features,
    compute_dense_features,
    cut_to_patches,
    find_feature_stride,
    pad_to_patches,
    patch_sides,
    pixel_values,
)
from synco_hub.feature_pooling import find_feature_network, find_feature_rule
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel

SMALL = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def models():
    torch.manual_seed(0)
    return {
        "vit": SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)),
        "swin": SynCoModel(SynCoConfig(backbone="swin-nano")),
        "head": SynCoForImageClassification(SynCoConfig(backbone="vit-nano", depth=1)),
        "timm": timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, dynamic_img_size=True, num_classes=3),
        "transformers": ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL), add_pooling_layer=False),
        "convolutions": ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])),
    }


@pytest.mark.parametrize("name", list(models()))
def test_every_family_takes_rectangles_and_gives_its_own_feature_at_its_own_size(name):
    model = models()[name].eval()
    network, rule = find_feature_network(model), find_feature_rule(model)
    pixels = torch.randn(2, 3, 48, 80)
    with torch.no_grad():
        wide = compute_any_size_features(network, cut_to_patches(pixels, patch_sides(network)), rule)
        own = compute_any_size_features(network, pixels[..., :32, :32], rule)
        output = network(pixels[..., :32, :32]) if name != "timm" else None
    assert wide.shape == own.shape
    assert torch.isfinite(wide).all()
    if name in ("vit", "swin", "head"):
        assert torch.allclose(own, output.pooler_output, atol=1e-6)
    if name == "transformers":
        assert torch.allclose(own, output.last_hidden_state[:, 0], atol=1e-6)


def test_cutting_and_padding_keep_every_pixel_where_it_is():
    pixels = torch.randn(1, 3, 35, 50)
    assert torch.equal(cut_to_patches(pixels, (16, 8)), pixels[..., :32, :48])
    padded = pad_to_patches(pixels, (16, 8))
    assert padded.shape == (1, 3, 48, 56)
    assert torch.equal(padded[..., :35, :50], pixels)
    assert padded[..., 35:, :].abs().sum() == padded[..., 50:].abs().sum() == 0
    assert torch.equal(pad_to_patches(padded, (16, 8)), padded)
    assert cut_to_patches(pixels[..., :5, :], (16, 16)).shape == (1, 3, 16, 48)


def test_pixels_are_normalised():
    image = Image.new("RGB", (3, 2), (255, 0, 51))
    found = pixel_values(image, (0.5, 0.5, 0.2), (0.5, 0.25, 0.1))
    assert found.shape == (1, 3, 2, 3)
    assert torch.allclose(found[0, :, 0, 0], torch.tensor([1.0, -2.0, 0.0]), atol=1e-6)
    grey = pixel_values(image, (0.4,), (0.2,))
    assert torch.allclose(grey, torch.full((1, 1, 2, 3), (image.convert("L").getpixel((0, 0)) / 255 - 0.4) / 0.2))


def network(backbone, **settings):
    torch.manual_seed(0)
    return SynCoModel(SynCoConfig(backbone=backbone, **settings)).eval()


def test_a_vit_gives_its_last_tokens_after_the_norm():
    model = network("vit-nano", depth=1)
    pixels = torch.randn(2, 3, 40, 64)
    found = compute_dense_features(model, pixels, choose_stage(model))
    tokens = model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    assert torch.allclose(found.flatten(1, 2), tokens, atol=1e-6)
    assert found.shape[1:3] == (5, 8)
    assert find_feature_stride(model, None) == (8, 8)
    with pytest.raises(ValueError, match="has no stages"):
        choose_stage(model, 1)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_swin_gives_the_stage_that_was_chosen(stage):
    model = network("swin-nano")
    pixels = torch.randn(1, 3, 48, 56)
    found = compute_dense_features(model, pixels, choose_stage(model, stage))
    hidden = model(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[stage]
    assert torch.allclose(found.flatten(1, 2), hidden, atol=1e-6)
    assert found.shape[1:3] == (48 // (2 * stage), 56 // (2 * stage))
    assert find_feature_stride(model, stage) == (2 * stage, 2 * stage)
    assert not any(layer._forward_hooks for layer in model.backbone.layers)


def test_the_usual_stage_has_patches_of_16_pixels():
    with torch.device("meta"):
        full = timm.create_model("swin_tiny_patch4_window7_224", strict_img_size=False)
    assert choose_stage(full) == 3
    assert choose_stage(network("swin-nano")) == 2
    for wrong in (0, 5):
        with pytest.raises(ValueError, match="the stages 1 to 4"):
            choose_stage(full, wrong)


def test_a_swin_whose_stages_are_out_of_reach_is_refused():
    small = SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    with pytest.raises(ValueError, match="not to be reached"):
        choose_stage(SwinModel(small))
