import pytest
import torch
from foreign_checkpoints import swin, vit
from transformers import AutoImageProcessor, SwinConfig, SwinModel, ViTConfig, ViTModel

from synco_hub.hub.export.network import Exported
from synco_hub.hub.export.to_transformers import export_transformers, from_stock_names, to_stock_names
from synco_hub.models import SynCoConfig, SynCoModel, image_processor

STOCK = {
    "vit": lambda: ViTModel(
        ViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, image_size=32),
        add_pooling_layer=False,
    ),
    "swin": lambda: SwinModel(
        SwinConfig(image_size=32, patch_size=2, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4)
    ),
}
OURS = {"vit": lambda: vit(48, 2, 2, mlp_ratio=2.0), "swin": lambda: swin(embed_dim=24)}


def exported(*args, **numbers):
    config = SynCoConfig(*args, **numbers)
    return Exported("x", SynCoModel(config).eval(), image_processor(config.image_size))


def test_the_numbers_that_no_shape_tells_are_written(tmp_path):
    facts = export_transformers(exported("vit-nano", num_heads=6, layer_norm_eps=1e-4), tmp_path)
    config = ViTConfig.from_pretrained(tmp_path)
    assert (config.num_attention_heads, config.layer_norm_eps) == (6, 1e-4)
    assert config.architectures == ["ViTModel"]
    assert facts["exact"]
    assert facts["difference"] <= 1e-5
    assert "At other image sizes (interpolate_pos_encoding=True)" in facts["note"]
    assert AutoImageProcessor.from_pretrained(tmp_path).crop_size["height"] == 32


def test_one_epsilon_of_several_is_the_commonest(tmp_path):
    facts = export_transformers(exported("swin-nano", layer_norm_eps={"block_mlp": 1e-3}), tmp_path)
    config = SwinConfig.from_pretrained(tmp_path)
    assert config.layer_norm_eps == 1e-5  # 8 norms against 4
    assert not facts["exact"]
    assert "[1e-05, 0.001]" in facts["note"]
    assert "other image sizes" not in facts["note"]


def test_a_network_that_only_looks_alike_is_refused(tmp_path):
    source = exported("vit-nano")
    source.backbone.norm_pre.register_forward_hook(lambda module, inputs, output: output * 1.5)
    with pytest.raises(ValueError, match="computes something that the stock model does not"):
        export_transformers(source, tmp_path)


@pytest.mark.parametrize("family", STOCK)
def test_the_names_are_those_that_transformers_saves(family, tmp_path):
    from safetensors.torch import load_file

    STOCK[family]().save_pretrained(tmp_path)
    saved = {key: tuple(value.shape) for key, value in load_file(tmp_path / "model.safetensors").items()}
    named = to_stock_names(family, OURS[family]().state_dict())
    assert {key: tuple(value.shape) for key, value in named.items()} == saved


@pytest.mark.parametrize("family", STOCK)
def test_there_and_back(family):
    state = OURS[family]().state_dict()
    back, dropped = from_stock_names(family, to_stock_names(family, state))
    assert not dropped
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_what_has_no_place_is_refused():
    with pytest.raises(ValueError, match=r"1 tensors have no place.*blocks\.0\.ls1\.gamma"):
        to_stock_names("vit", {"blocks.0.ls1.gamma": torch.ones(2), "cls_token": torch.ones(1, 1, 2)})
    named = to_stock_names("vit", vit(48, 1, 2).state_dict())
    del named["encoder.layer.0.attention.attention.key.weight"]
    with pytest.raises(ValueError, match=r"unknown or incomplete keys.*attn.qkv.weight"):
        from_stock_names("vit", named)
    with pytest.raises(ValueError, match="odd"):
        from_stock_names("vit", {"odd.weight": torch.ones(1)})


def test_poolers_and_mask_tokens_are_dropped_with_a_reason():
    extra = {"vit.pooler.dense.weight": torch.ones(2), "classifier.bias": torch.ones(3)}
    named, dropped = from_stock_names("vit", extra)
    assert set(named) == {"head.bias"}
    assert "random" in dropped["vit.pooler.dense.weight"]
