import pytest
import torch

from synco_hub.hub.conversion.exported_configuration import exported_configuration
from synco_hub.hub.conversion.source import CheckpointSource
from synco_hub.hub.export.network import plain_config
from synco_hub.models import SynCoConfig, SynCoModel


def source_of(config, tensors=None):
    return CheckpointSource("x.safetensors", "safetensors", None, tensors or {"cls_token": torch.zeros(1)}, config)


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_what_an_export_wrote_describes_the_same_network(backbone):
    config = SynCoConfig(backbone, layer_norm_eps={"final": 1e-3}, id2label={0: "fern", 1: "tree"})
    tensors = SynCoModel(config).state_dict()
    values = plain_config(config) | {"id2label": {"0": "fern", "1": "tree"}}
    again = exported_configuration(source_of(values, tensors))
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
        exported_configuration(source_of(values))
