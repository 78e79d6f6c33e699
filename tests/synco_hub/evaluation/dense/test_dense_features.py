import pytest
import timm
import torch
from transformers import SwinConfig, SwinModel

from synco_hub.evaluation.dense.dense_features import chosen_stage, dense_features, feature_stride
from synco_hub.models import SynCoConfig, SynCoModel


def network(backbone, **settings):
    torch.manual_seed(0)
    return SynCoModel(SynCoConfig(backbone=backbone, **settings)).eval()


def test_a_vit_gives_its_last_tokens_after_the_norm():
    model = network("vit-nano", depth=1)
    pixels = torch.randn(2, 3, 40, 64)
    found = dense_features(model, pixels, chosen_stage(model))
    tokens = model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    assert torch.allclose(found.flatten(1, 2), tokens, atol=1e-6)
    assert found.shape[1:3] == (5, 8)
    assert feature_stride(model, None) == (8, 8)
    with pytest.raises(ValueError, match="has no stages"):
        chosen_stage(model, 1)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_swin_gives_the_stage_that_was_chosen(stage):
    model = network("swin-nano")
    pixels = torch.randn(1, 3, 48, 56)
    found = dense_features(model, pixels, chosen_stage(model, stage))
    hidden = model(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[stage]
    assert torch.allclose(found.flatten(1, 2), hidden, atol=1e-6)
    assert found.shape[1:3] == (48 // (2 * stage), 56 // (2 * stage))
    assert feature_stride(model, stage) == (2 * stage, 2 * stage)
    assert not any(layer._forward_hooks for layer in model.backbone.layers)


def test_the_usual_stage_has_patches_of_16_pixels():
    with torch.device("meta"):
        full = timm.create_model("swin_tiny_patch4_window7_224", strict_img_size=False)
    assert chosen_stage(full) == 3
    assert chosen_stage(network("swin-nano")) == 2
    for wrong in (0, 5):
        with pytest.raises(ValueError, match="the stages 1 to 4"):
            chosen_stage(full, wrong)


def test_a_swin_whose_stages_are_out_of_reach_is_refused():
    small = SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    with pytest.raises(ValueError, match="not to be reached"):
        chosen_stage(SwinModel(small))
