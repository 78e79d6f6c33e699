import pytest
from transformers import AutoImageProcessor, SwinConfig, ViTConfig

from synco_hub.hub.export.network import Exported
from synco_hub.hub.export.to_transformers import export_transformers
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


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
    assert AutoImageProcessor.from_pretrained(tmp_path).crop_size["height"] == 32


def test_one_epsilon_of_several_is_the_commonest(tmp_path):
    facts = export_transformers(exported("swin-nano", layer_norm_eps={"block_mlp": 1e-3}), tmp_path)
    config = SwinConfig.from_pretrained(tmp_path)
    assert config.layer_norm_eps == 1e-5  # 8 norms against 4
    assert not facts["exact"]
    assert "[1e-05, 0.001]" in facts["note"]


def test_a_network_that_only_looks_alike_is_refused(tmp_path):
    source = exported("vit-nano")
    source.backbone.norm_pre.register_forward_hook(lambda module, inputs, output: output * 1.5)
    with pytest.raises(ValueError, match="computes something that the stock model does not"):
        export_transformers(source, tmp_path)
