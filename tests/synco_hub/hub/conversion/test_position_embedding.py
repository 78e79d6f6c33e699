import torch
from foreign_checkpoints import slow_sincos

from synco_hub.hub.conversion.position_embedding import has_sincos_position_embedding


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
