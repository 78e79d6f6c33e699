import pytest
import torch
from foreign_checkpoints import microsoft_names, swin, vit

from synco_hub.hub.conversion.configuration import Choices, configuration_of
from synco_hub.hub.conversion.layouts import LAYOUTS
from synco_hub.hub.conversion.timm_names import timm_names


def configured(network, layout="timm", **choices):
    names = microsoft_names(network) if hasattr(network, "layers") else network.state_dict()
    return configuration_of(timm_names(names), layout, LAYOUTS[layout], Choices(**choices))


@pytest.mark.parametrize(
    ("network", "numbers"),
    [
        (vit(192, 3, 3, patch_size=8, mlp_ratio=2.0), {"depth": 3, "patch_size": 8, "mlp_ratio": 2.0, "num_heads": 3}),
        (vit(384, 12, 6), {"backbone": "deit-s", "num_heads": 6, "image_size": 32, "position_embedding": "sincos"}),
        (vit(128, 1, 2, in_chans=1, sincos=False), {"num_channels": 1, "position_embedding": "learned"}),
        (swin(window_size=8), {"backbone": "swin-nano", "window_size": 8, "num_heads": [2, 4], "embed_dim": 48}),
        (swin(img_size=64, depths=(4, 2)), {"image_size": 64, "depth": [4, 2], "window_size": 4}),
    ],
)
def test_the_shapes_tell_the_numbers(network, numbers):
    config, _ = configured(network)
    for name, value in numbers.items():
        assert getattr(config, name) == value, name


def test_a_named_backbone_is_taken_at_its_word():
    config, heads = configured(vit(384, 12, 6, img_size=64), backbone="deit-s")
    assert (config.backbone, config.image_size, heads.num_heads) == ("deit-s", 64, 6)
    with pytest.raises(ValueError, match="is unknown"):
        configured(vit(384, 1), backbone="deit_s")
    assert configured(vit(384, 12), "synco-v2", backbone="deit-s")[0].num_heads == 12


def test_no_backbone_at_all_is_told():
    with pytest.raises(ValueError, match="neither a ViT's nor a Swin's"):
        configuration_of(timm_names({"conv1.weight": torch.zeros(2)}), "timm", LAYOUTS["timm"], Choices())


@pytest.mark.parametrize(
    ("network", "key"),
    [
        (vit(96, 2, 3), "blocks.99999.norm1.weight"),
        (vit(96, 2, 3), "blocks.01.norm1.weight"),
        (vit(96, 2, 3), f"blocks.{'9' * 5000}.norm1.weight"),
        (swin(), "layers.7.blocks.0.norm1.weight"),
        (swin(), "layers.0.blocks.99999.norm1.weight"),
    ],
)
def test_one_stray_key_does_not_decide_how_many_blocks_are_built(network, key):
    tensors = timm_names(network.state_dict() | {key: torch.zeros(96)})
    with pytest.raises(ValueError, match=rf"The key '{key[:100]}.* does not fit: \d blocks or stages are there"):
        configuration_of(tensors, "timm", LAYOUTS["timm"], Choices())
