"""The feature of each family, against what the family's own parts compute."""

from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

from synco_hub.feature_pooling import (
    RULES,
    FeatureRule,
    compute_image_features,
    find_expected_image_size,
    find_feature_network,
    find_feature_rule,
)
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
SMALL_SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def features_of(model: nn.Module, pixel_values: Tensor) -> Tensor:
    with torch.no_grad():
        return compute_image_features(find_feature_network(model), pixel_values, find_feature_rule(model))


@pytest.mark.parametrize("family", ["ViT", "DeiT", "ViTMSN", "Dinov2", "Dinov2WithRegisters", "DINOv3ViT"])
def test_vision_transformers_give_the_class_token_and_not_their_pooler(family: str) -> None:
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**SMALL)).eval()
    with torch.no_grad():
        expected = model(images()).last_hidden_state[:, 0]
    assert torch.equal(features_of(model, images()), expected)
    assert "[CLS]" in find_feature_rule(model).description


@pytest.mark.parametrize("family", ["Swin", "Swinv2"])
def test_swin_gives_the_mean_of_its_final_map(family: str) -> None:
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**SMALL_SWIN)).eval()
    with torch.no_grad():
        expected = model(images()).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(features_of(model, images()), expected)


def test_ijepa_gives_the_mean_of_its_tokens() -> None:
    model = transformers.IJepaModel(transformers.IJepaConfig(**SMALL)).eval()
    with torch.no_grad():
        expected = model(images()).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(features_of(model, images()), expected)


def test_a_convolutional_network_gives_a_vector() -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    assert features_of(transformers.ResNetModel(config).eval(), images()).shape == (2, 16)


def test_synco_gives_its_pooled_output_with_and_without_a_head() -> None:
    config = SynCoConfig(backbone="deit-s", image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    classifier = SynCoForImageClassification(config).eval()
    with torch.no_grad():
        outputs = classifier.synco(images())
    assert torch.equal(features_of(classifier, images()), outputs.last_hidden_state[:, 0])
    assert torch.equal(features_of(classifier.synco, images()), outputs.pooler_output)
    assert find_feature_rule(classifier).description == "[CLS] token after the final norm"
    assert find_expected_image_size(classifier) == (32, 32)


def test_synco_swin_says_mean() -> None:
    config = SynCoConfig(
        backbone="swin-t", image_size=32, patch_size=2, window_size=4, embed_dim=8, depth=[1, 1], num_heads=[2, 2]
    )
    model = SynCoModel(config).eval()
    with torch.no_grad():
        expected = model(images()).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(features_of(model, images()), expected)
    assert "mean" in find_feature_rule(model).description


@pytest.mark.parametrize("num_classes", [0, 7])
@pytest.mark.parametrize(("pooling", "words"), [("token", "[CLS]"), ("avg", "mean")])
def test_timm_models_give_what_timm_pools(num_classes: int, pooling: str, words: str) -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        num_classes=num_classes,
        img_size=32,
        depth=2,
        global_pool=pooling,
    ).eval()
    with torch.no_grad():
        tokens = model.forward_features(images())
        expected = tokens[:, 0] if pooling == "token" else model.fc_norm(tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(features_of(model, images()), expected)
    assert words in find_feature_rule(model).description
    assert find_expected_image_size(model) == (32, 32)


def test_heads_and_compilation_are_looked_through() -> None:
    classifier = transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)).eval()
    assert find_feature_network(classifier) is classifier.vit
    assert find_feature_network(torch.compile(classifier, backend="eager")) is classifier.vit
    assert find_feature_network(classifier.vit) is classifier.vit
    dinov3 = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SMALL))
    assert find_feature_network(dinov3) is dinov3
    assert find_expected_image_size(classifier) == (32, 32)


def test_a_model_without_a_pooled_output_is_refused() -> None:
    model = transformers.SwinModel(transformers.SwinConfig(**SMALL_SWIN), add_pooling_layer=False).eval()
    with pytest.raises(ValueError, match="SwinModel gives no pooler_output"):
        features_of(model, images())


def test_features_that_depend_on_chance_are_refused() -> None:
    masked = transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL))
    with pytest.raises(ValueError, match=r"hides 75% .* mask_ratio=0.0"):
        find_feature_rule(masked)
    whole = transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL, mask_ratio=0.0)).eval()
    # The patches are shuffled at random all the same, which [CLS] does not see.
    torch.testing.assert_close(features_of(whole, images()), features_of(whole, images()), rtol=1e-4, atol=1e-5)


def test_an_unknown_module_and_a_map_are_refused() -> None:
    with pytest.raises(ValueError, match="Linear is neither a transformers nor a timm model"):
        find_feature_rule(nn.Linear(2, 2))

    class Mapped(nn.Module):
        def forward(self, pixel_values: Tensor) -> Any:
            return transformers.modeling_outputs.BaseModelOutputWithPooling(pooler_output=pixel_values)

    with pytest.raises(ValueError, match=r"features of shape \(2, 3, 32, 32\)"):
        compute_image_features(Mapped(), images(), FeatureRule("pooler_output", "its output"))


def test_the_rules_name_model_types_that_exist() -> None:
    assert set(RULES) <= set(transformers.CONFIG_MAPPING.keys())
