import pytest
import timm
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

from synco_hub.evaluation.dense.any_size import (
    any_size_features,
    cut_to_patches,
    pad_to_patches,
    patch_sides,
    pixel_values,
)
from synco_hub.feature_adapter import feature_network, feature_rule
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
    network, rule = feature_network(model), feature_rule(model)
    pixels = torch.randn(2, 3, 48, 80)
    with torch.no_grad():
        wide = any_size_features(network, cut_to_patches(pixels, patch_sides(network)), rule)
        own = any_size_features(network, pixels[..., :32, :32], rule)
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
