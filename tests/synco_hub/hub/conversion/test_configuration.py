import pytest
import torch
from foreign_checkpoints import microsoft_names, swin, vit
from transformers import SwinConfig, ViTConfig

from synco_hub.hub.conversion.configuration import (
    Choices,
    find_recorded_heads,
    infer_configuration,
    read_exported_configuration,
    read_stock_configuration,
    vit_heads,
)
from synco_hub.hub.conversion.layouts import LAYOUTS
from synco_hub.hub.conversion.source import CheckpointSource
from synco_hub.hub.conversion.tensor_names import map_to_timm_names
from synco_hub.hub.export.network import make_plain_config
from synco_hub.models import SynCoConfig, SynCoModel


def configured(network, layout="timm", **choices):
    names = microsoft_names(network) if hasattr(network, "layers") else network.state_dict()
    return infer_configuration(map_to_timm_names(names), layout, LAYOUTS[layout], Choices(**choices))


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
        infer_configuration(map_to_timm_names({"conv1.weight": torch.zeros(2)}), "timm", LAYOUTS["timm"], Choices())


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
    tensors = map_to_timm_names(network.state_dict() | {key: torch.zeros(96)})
    with pytest.raises(ValueError, match=rf"The key '{key[:100]}.* does not fit: \d blocks or stages are there"):
        infer_configuration(tensors, "timm", LAYOUTS["timm"], Choices())


@pytest.mark.parametrize("stock", [ViTConfig(), SwinConfig()], ids=["vit", "swin"])
def test_numbers_that_a_config_leaves_out_are_those_of_transformers(stock):
    """A config.json of an older transformers may hold differences only."""
    backbone = map_to_timm_names((vit if stock.model_type == "vit" else swin)().state_dict())
    full, _ = read_stock_configuration(stock.to_dict(), backbone, Choices())
    bare, heads = read_stock_configuration({"model_type": stock.model_type}, backbone, Choices())
    for name in ("image_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "layer_norm_eps"):
        assert getattr(bare, name) == getattr(full, name), name
    assert bare.window_size == full.window_size
    assert "config.json" in heads.reason


def test_what_this_package_has_not_is_refused():
    backbone = map_to_timm_names(vit().state_dict())
    with pytest.raises(ValueError, match="hidden_act='relu' is not GELU"):
        read_stock_configuration({"model_type": "vit", "hidden_act": "relu"}, backbone, Choices())


def test_heads_can_be_overridden():
    config, heads = read_stock_configuration(
        {"model_type": "vit"}, map_to_timm_names(vit().state_dict()), Choices(num_heads=6)
    )
    assert config.num_heads == heads.num_heads == 6


def source_of(config, tensors=None):
    return CheckpointSource("x.safetensors", "safetensors", None, tensors or {"cls_token": torch.zeros(1)}, config)


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_what_an_export_wrote_describes_the_same_network(backbone):
    config = SynCoConfig(backbone, layer_norm_eps={"final": 1e-3}, id2label={0: "fern", 1: "tree"})
    tensors = SynCoModel(config).state_dict()
    values = make_plain_config(config) | {"id2label": {"0": "fern", "1": "tree"}}
    again = read_exported_configuration(source_of(values, tensors))
    assert again.id2label == {0: "fern", 1: "tree"}
    for name in ("backbone", "depth", "num_heads", "embed_dim", "layer_norm_eps", "image_size"):
        assert getattr(again, name) == getattr(config, name), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "vit-nano", "auto_map": {}}, r"unknown fields \['auto_map'\]"),
        ({"backbone": "vit-nano", "depth": 2}, "depth=2 needs more weights than the 1 tensors"),
        ({"backbone": "vit-nano", "depth": 1, "id2label": {"one": "cat"}}, "id2label is no map of class numbers"),
        ({"backbone": "vit-nano", "depth": 1, "id2label": ["cat"]}, "id2label is no map of class numbers"),
        ({"backbone": "vit-nano", "depth": 1, "embed_dim": [96]}, "impossible values|embed_dim"),
    ],
)
def test_what_no_export_writes_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        read_exported_configuration(source_of(values))


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


def test_what_is_given_goes_before_all_and_what_is_recorded_is_only_reported():
    layout = LAYOUTS["synco-v2"]
    assert vit_heads(384, "synco-v2", layout, 6, None, 3).num_heads == 6
    decided = vit_heads(384, "synco-v2", layout, None, "deit-s", [3, 6])
    assert (decided.num_heads, decided.recorded) == (12, [3, 6])
    assert vit_heads(384, "timm", LAYOUTS["timm"], None, "deit-s", None).num_heads == 6
    assert vit_heads(192, "dino", LAYOUTS["dino"], None, None, None).num_heads == 3


def test_recorded_heads_are_found_at_any_depth_and_in_a_configuration_that_holds_itself():
    assert find_recorded_heads({"MODEL": {"SWIN": {"NUM_HEADS": [2, 4]}}, "DATA": {}}) == [2, 4]
    assert find_recorded_heads({"MODEL": {"TYPE": "synco"}}) is None
    config = {"MODEL": {"TYPE": "synco"}}
    config["MODEL"]["all"] = config
    assert find_recorded_heads(config) is None
