import torch
from foreign_checkpoints import microsoft_names, slow_sincos, swin, vit

from synco_hub.hub.conversion.tensor_names import has_sincos_position_embedding, map_to_timm_names


def test_microsofts_names_become_timms():
    network = swin(depths=(2, 2, 2), num_heads=(2, 4, 8), img_size=32)
    backbone = map_to_timm_names(microsoft_names(network))
    own = network.state_dict()
    assert set(backbone.tensors) == set(own)
    assert all(torch.equal(backbone.tensors[key], own[key]) for key in own)
    assert all(key.endswith(("relative_position_index", "attn_mask")) for key in backbone.dropped)
    assert backbone.grid == 16


def test_classifiers_and_projections_are_told_from_the_backbone():
    network = vit(96, 1, 3).state_dict()
    linear = {"head.weight": torch.zeros(5, 96), "head.bias": torch.zeros(5)}
    backbone = map_to_timm_names(
        network | linear | {"head.0.weight": torch.zeros(2, 2), "head.mlp.weight": torch.zeros(1)}
    )
    assert set(backbone.head) == {"weight", "bias"}
    assert backbone.dropped == {"head.0.weight": "projection head of the pretraining"}
    assert set(backbone.tensors) == {*network, "head.mlp.weight"}  # which strict loading then refuses
    assert backbone.grid is None


def test_the_fixed_position_embedding_is_recognised_by_its_numbers():
    table = slow_sincos((14, 14), 384)
    assert has_sincos_position_embedding(table)
    assert has_sincos_position_embedding(table.half())
    moved = table.clone()
    moved[0, 100, 7] += 0.01
    token = table.clone()
    token[0, 0, 0] = 1e-3
    for other in (moved, token, table[:, :-1], torch.randn(1, 197, 384), torch.zeros(1, 197, 6)):
        assert not has_sincos_position_embedding(other)
