import pytest
import timm
import torch
from transformers import ViTConfig, ViTModel

from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel
from synco_hub.visualization.last_keys import last_keys

SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def keys_by_hand(backbone, hidden):
    """The middle third of the fused projection of the last block's normalised input, [CLS] left out."""
    block = backbone.blocks[-1]
    keys = block.attn.qkv(block.norm1(hidden)).chunk(3, dim=-1)[1]
    return keys[:, 1:]


@pytest.mark.parametrize("size", [(32, 32), (40, 64)])
def test_keys_are_the_last_block_s_own(size):
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone="vit-nano")).train()
    pixels = torch.randn(2, 3, *size)
    found = last_keys(model, pixels)
    assert model.training
    with torch.no_grad():
        hidden = model.eval()(pixels, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states[-2]
        expected = keys_by_hand(model.backbone, hidden)
    assert found.shape == (2, size[0] // 8, size[1] // 8, 96)
    assert torch.allclose(found.flatten(1, 2), expected, atol=1e-5)


def test_other_libraries_and_heads():
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 32, 32)
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3).eval()
    assert last_keys(network, pixels).shape == (1, 2, 2, 192)
    native = ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL), add_pooling_layer=False).eval()
    assert last_keys(native, pixels).shape == (1, 4, 4, 12)
    with_head = SynCoForImageClassification(SynCoConfig(backbone="vit-nano", depth=1))
    assert torch.equal(last_keys(with_head, pixels), last_keys(with_head.synco, pixels))


def test_models_whose_keys_are_not_to_be_seen_are_refused():
    pixels = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="is a Swin"):
        last_keys(SynCoModel(SynCoConfig(backbone="swin-nano")), pixels)
    eager = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    eager.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="sdpa"):
        last_keys(eager, pixels)
