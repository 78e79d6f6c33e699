import pytest
from foreign_checkpoints import swin, vit
from transformers import SwinConfig, ViTConfig

from synco_hub.hub.conversion.configuration import Choices
from synco_hub.hub.conversion.stock_configuration import stock_configuration
from synco_hub.hub.conversion.timm_names import timm_names


@pytest.mark.parametrize("stock", [ViTConfig(), SwinConfig()], ids=["vit", "swin"])
def test_numbers_that_a_config_leaves_out_are_those_of_transformers(stock):
    """A config.json of an older transformers may hold differences only."""
    backbone = timm_names((vit if stock.model_type == "vit" else swin)().state_dict())
    full, _ = stock_configuration(stock.to_dict(), backbone, Choices())
    bare, heads = stock_configuration({"model_type": stock.model_type}, backbone, Choices())
    for name in ("image_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "layer_norm_eps"):
        assert getattr(bare, name) == getattr(full, name), name
    assert bare.window_size == full.window_size
    assert "config.json" in heads.reason


def test_what_this_package_has_not_is_refused():
    backbone = timm_names(vit().state_dict())
    with pytest.raises(ValueError, match="hidden_act='relu' is not GELU"):
        stock_configuration({"model_type": "vit", "hidden_act": "relu"}, backbone, Choices())


def test_heads_can_be_overridden():
    config, heads = stock_configuration({"model_type": "vit"}, timm_names(vit().state_dict()), Choices(num_heads=6))
    assert config.num_heads == heads.num_heads == 6
