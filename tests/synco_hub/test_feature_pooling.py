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
    forward_network,
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


TEXT = {"vocab_size": 99, **{name: SMALL[name] for name in SMALL if name not in ("image_size", "patch_size")}}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
PYRAMID = {**STAGES, "image_size": 32, "num_attention_heads": [1, 2, 2, 2]}
# What a user takes for the feature of each family, by its own names.
FAMILIES: dict[str, tuple[dict[str, Any], Any]] = {
    "CLIP": (
        {"text_config": TEXT, "vision_config": SMALL, "projection_dim": 16},
        lambda model, pixels: model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output),
    ),
    "Siglip": (
        {"text_config": TEXT, "vision_config": SMALL},
        lambda model, pixels: model.vision_model(pixel_values=pixels).pooler_output,
    ),
    "CLIPVision": (SMALL, lambda model, pixels: model(pixels).pooler_output),
    "SiglipVision": (SMALL, lambda model, pixels: model(pixels).pooler_output),
    "ConvNext": (STAGES, lambda model, pixels: model(pixels).pooler_output),
    "ConvNextV2": (STAGES, lambda model, pixels: model(pixels).pooler_output),
    "RegNet": (
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
        lambda model, pixels: model(pixels).last_hidden_state.mean((2, 3)),
    ),
    "PoolFormer": (STAGES, lambda model, pixels: model(pixels).last_hidden_state.mean((2, 3))),
    "Pvt": (PYRAMID, lambda model, pixels: model(pixels).last_hidden_state[:, 0]),
    "PvtV2": (PYRAMID, lambda model, pixels: model(pixels).last_hidden_state.mean((2, 3))),
    "Segformer": ({**PYRAMID, "num_encoder_blocks": 4}, lambda model, pixels: model(pixels)[0].mean((2, 3))),
    "SwiftFormer": (
        {"embed_dims": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32},
        lambda model, pixels: model(pixels).last_hidden_state.mean((2, 3)),
    ),
    "Cvt": (
        {"embed_dim": [8, 8, 16], "num_heads": [1, 1, 1], "depth": [1, 2, 3]},
        lambda model, pixels: model(pixels).cls_token_value.flatten(1),
    ),
    "MobileViT": (
        {
            "hidden_sizes": [16, 16, 16],
            "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
            "image_size": 32,
            "num_attention_heads": 4,
        },
        lambda model, pixels: model(pixels).last_hidden_state.mean((2, 3)),
    ),
    "EfficientNet": (
        {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320, "image_size": 32},
        lambda model, pixels: model(pixels).last_hidden_state.mean((2, 3)),
    ),
    "Beit": (SMALL, lambda model, pixels: model.pooler.layernorm(model(pixels).last_hidden_state[:, 1:].mean(1))),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_feature_that_it_gives_when_called_by_hand(family: str) -> None:
    numbers, by_hand = FAMILIES[family]
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**numbers)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # as drawn, deep convolutional networks give zeros
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        expected = by_hand(model, images())
    assert len(expected) == 2
    assert expected.std() > 0
    torch.testing.assert_close(features_of(model, images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_the_classifier_of_a_network_of_text_and_images_has_its_vision_tower_for_a_backbone(kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(text_config=TEXT, vision_config=SMALL, num_labels=3)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    with torch.no_grad():
        expected = model.vision_model(pixel_values=images()).pooler_output
    torch.testing.assert_close(features_of(model, images()), expected)
    assert find_expected_image_size(model) == (32, 32)
    whole = getattr(transformers, f"{kind}Model")(config)
    assert find_feature_network(whole) is whole
    assert find_expected_image_size(whole) == (32, 32)


@pytest.mark.parametrize("head", ["Model", "ForImageClassification"])
def test_what_transformers_wraps_of_timm_is_looked_through(head: str) -> None:
    config = transformers.TimmWrapperConfig(architecture="test_vit", num_labels=3)
    model = getattr(transformers, f"TimmWrapper{head}")(config).eval()
    pixels = images(size=160)
    with torch.no_grad():
        expected = model.timm_model.forward_features(pixels)[:, 0]
    torch.testing.assert_close(features_of(model, pixels), expected)
    assert "[CLS]" in find_feature_rule(model).description
    assert find_expected_image_size(model) == (160, 160)


def test_a_network_in_half_precision_takes_images_in_full() -> None:
    config = transformers.ConvNextConfig(**STAGES)
    model = transformers.ConvNextModel(config).eval()
    expected = features_of(model, images())
    found = features_of(model.to(torch.bfloat16), images())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


def test_the_tokens_of_a_masked_autoencoder_stay_in_their_places() -> None:
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(**SMALL, mask_ratio=0.0, attn_implementation="eager")
    model = transformers.ViTMAEModel(config).eval()
    pixels = images()
    with torch.no_grad():
        in_order = model(pixels, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
        found = forward_network(model, pixels).last_hidden_state
    assert torch.equal(found, in_order)
    with pytest.raises(ValueError, match=r"hides 50% .* mask_ratio=0.0"):
        forward_network(transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL, mask_ratio=0.5)), pixels)


def test_a_model_without_a_pooled_output_is_refused() -> None:
    model = transformers.SwinModel(transformers.SwinConfig(**SMALL_SWIN), add_pooling_layer=False).eval()
    with pytest.raises(ValueError, match=r"SwinModel gives no pooler_output, .*: take a model that pools"):
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
