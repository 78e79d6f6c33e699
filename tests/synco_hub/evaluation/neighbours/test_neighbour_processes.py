from __future__ import annotations

import pytest
import torch

from synco_hub.evaluation.neighbours.nearest_neighbours import nearest_neighbours
from synco_hub.evaluation.neighbours.neighbour_processes import nearest_neighbours_in_processes


def test_two_processes_find_what_one_finds_ties_included():
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(500, 16, generator=generator), torch.randn(41, 16, generator=generator)
    bank[250:] = bank[:250]  # every neighbour has an equal twin
    found = nearest_neighbours_in_processes(bank, queries, 7, num_processes=2)
    expected = nearest_neighbours(bank, queries, 7)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.similarities, expected.similarities)


@pytest.mark.parametrize(("queries", "processes"), [(1, 4), (5, 1)])
def test_one_query_or_one_process_needs_no_other(queries, processes):
    generator = torch.Generator().manual_seed(1)
    bank, asked = torch.randn(20, 4, generator=generator), torch.randn(queries, 4, generator=generator)
    found = nearest_neighbours_in_processes(bank, asked, 3, processes)
    brute = (torch.nn.functional.normalize(asked) @ torch.nn.functional.normalize(bank).T).argsort(descending=True)
    assert torch.equal(found.indices, brute[:, :3])
