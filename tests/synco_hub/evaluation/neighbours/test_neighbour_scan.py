"""Packed keys against Python's own sorting, and one pass over the bank against a sort of all similarities."""

import pytest
import torch

from synco_hub.evaluation.neighbours.neighbour_scan import (
    SearchBlocks,
    best_keys,
    normalised,
    packed,
    unpacked,
)


def test_keys_are_ordered_by_similarity_then_by_lower_index_and_come_back() -> None:
    generator = torch.Generator().manual_seed(0)
    similarities = torch.randn(500, generator=generator).round(decimals=1)
    similarities[:4] = torch.tensor([torch.inf, -torch.inf, -0.0, 1e-44])
    indices = torch.randint(2**32 - 1, (500,), generator=generator)
    keys = packed(similarities, indices)
    expected = sorted(range(500), key=lambda at: (-float(similarities[at]), int(indices[at])))
    assert keys.argsort(descending=True).tolist() == expected
    back, rows = unpacked(keys)
    assert torch.equal(back, similarities)  # -0 comes back as +0, which is equal to it
    assert torch.equal(rows, indices)


def test_the_best_are_those_of_a_sort_of_all_similarities() -> None:
    generator = torch.Generator().manual_seed(1)
    bank, queries = torch.randn(700, 24, generator=generator), torch.randn(31, 24, generator=generator)
    scores, _ = unpacked(best_keys(bank, queries, 40, "cpu", SearchBlocks(9, 128, 8, 4)))
    unit_bank, unit_queries = (normalised(each, "cpu").double() for each in (bank, queries))
    expected = (unit_queries @ unit_bank.T).topk(40).values
    torch.testing.assert_close(scores.double(), expected, rtol=1.2e-7, atol=1e-6)


def test_empty_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="group=0"):
        SearchBlocks(group=0)
