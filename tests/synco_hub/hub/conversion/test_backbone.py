import pytest
import torch
from foreign_checkpoints import microsoft_names, swin, vit

from synco_hub.hub.conversion.backbone import Choices, configuration_of, finite, load_strictly, timm_names
from synco_hub.hub.conversion.layouts import LAYOUTS


def configured(network, layout="timm", **choices):
    names = microsoft_names(network) if hasattr(network, "layers") else network.state_dict()
    return configuration_of(timm_names(names), layout, LAYOUTS[layout], Choices(**choices))


def test_microsofts_names_become_timms():
    network = swin(depths=(2, 2, 2), num_heads=(2, 4, 8), img_size=32)
    backbone = timm_names(microsoft_names(network))
    own = network.state_dict()
    assert set(backbone.tensors) == set(own)
    assert all(torch.equal(backbone.tensors[key], own[key]) for key in own)
    assert all(key.endswith(("relative_position_index", "attn_mask")) for key in backbone.dropped)
    assert backbone.grid == 16


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


def test_heads_follow_the_layout_and_unknown_ones_are_asked_for():
    assert configured(vit(384, 1), "synco-v2")[0].num_heads == 12
    assert configured(vit(384, 1), "moby")[0].num_heads == 6
    assert configured(vit(384, 1), "moby", num_heads=3)[0].num_heads == 3
    with pytest.raises(ValueError, match=r"width 96 is not known.*give --num-heads"):
        configured(vit(96, 1, 3), "synco-v2")
    with pytest.raises(ValueError, match="heads are told by the shapes"):
        configured(swin(), num_heads=4)
    with pytest.raises(ValueError, match="num_heads=7 does not divide"):
        configured(vit(384, 1), num_heads=7)


def test_a_named_backbone_is_taken_at_its_word():
    config, heads = configured(vit(384, 12, 6, img_size=64), backbone="deit-s")
    assert (config.backbone, config.image_size, heads.num_heads) == ("deit-s", 64, 6)
    with pytest.raises(ValueError, match="is unknown"):
        configured(vit(384, 1), backbone="deit_s")
    assert configured(vit(384, 12), "synco-v2", backbone="deit-s")[0].num_heads == 12


def test_no_backbone_at_all_is_told():
    with pytest.raises(ValueError, match="neither a ViT's nor a Swin's"):
        configuration_of(timm_names({"conv1.weight": torch.zeros(2)}), "timm", LAYOUTS["timm"], Choices())


def test_strict_loading_lists_every_fault_and_loads_nothing():
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.clone()
    found = {"weight": torch.zeros(3, 2), "bia": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"missing: bias; 1 left over: bia; 1 wrong-shaped: weight \(3") as error:
        load_strictly(layer, found, "the layer")
    assert "Nothing was written" in str(error.value)
    assert torch.equal(layer.weight, before)
    load_strictly(layer, {"weight": torch.ones(2, 3).half(), "bias": torch.ones(2)}, "the layer")
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_spoilt_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="x holds NaN or infinite"):
        finite("x", torch.tensor([1.0, bad]))
    assert finite("x", torch.tensor([3])) == 3


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
    with pytest.raises(ValueError, match=rf"The key '{key[:150]}.* does not fit: \d blocks or stages are there"):
        configuration_of(tensors, "timm", LAYOUTS["timm"], Choices())
