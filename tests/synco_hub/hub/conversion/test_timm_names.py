import torch
from foreign_checkpoints import microsoft_names, swin, vit

from synco_hub.hub.conversion.timm_names import timm_names


def test_microsofts_names_become_timms():
    network = swin(depths=(2, 2, 2), num_heads=(2, 4, 8), img_size=32)
    backbone = timm_names(microsoft_names(network))
    own = network.state_dict()
    assert set(backbone.tensors) == set(own)
    assert all(torch.equal(backbone.tensors[key], own[key]) for key in own)
    assert all(key.endswith(("relative_position_index", "attn_mask")) for key in backbone.dropped)
    assert backbone.grid == 16


def test_classifiers_and_projections_are_told_from_the_backbone():
    network = vit(96, 1, 3).state_dict()
    linear = {"head.weight": torch.zeros(5, 96), "head.bias": torch.zeros(5)}
    backbone = timm_names(network | linear | {"head.0.weight": torch.zeros(2, 2), "head.mlp.weight": torch.zeros(1)})
    assert set(backbone.head) == {"weight", "bias"}
    assert backbone.dropped == {"head.0.weight": "projection head of the pretraining"}
    assert set(backbone.tensors) == {*network, "head.mlp.weight"}  # which strict loading then refuses
    assert backbone.grid is None
