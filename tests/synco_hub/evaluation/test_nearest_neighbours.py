"""The blocked search against a full stable sort in numpy, ties included.

Packed keys against Python's own sorting, and one pass over the bank against a sort of all similarities.
"""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from synco_hub.evaluation.nearest_neighbours import (
    SearchBlocks,
    find_best_keys,
    nearest_neighbours,
    normalise,
    pack,
    unpack,
)


def sorted_in_full(bank: Tensor, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    similarities = (queries @ bank.T).numpy()
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, order, axis=1), order


def exact_vectors(generator: torch.Generator, count: int, dim: int = 16) -> Tensor:
    """Vectors of four ±1/2: unit norm, dot products exact in any order of addition, and full of ties."""
    vectors = torch.zeros(count, dim)
    for row in vectors:
        row[torch.randperm(dim, generator=generator)[:4]] = torch.randint(2, (4,), generator=generator) - 0.5
    return vectors


@pytest.mark.parametrize(
    "blocks", [None, SearchBlocks(7, 50, 4, 3), SearchBlocks(64, 33, 32), SearchBlocks(5, 3, 1, 1)]
)
@pytest.mark.parametrize("k", [1, 20, 301])
def test_equals_a_full_stable_sort_with_ties(blocks: SearchBlocks | None, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    bank, queries = exact_vectors(generator, 301), exact_vectors(generator, 23)
    found = nearest_neighbours(bank, queries, k, blocks=blocks)
    similarities, order = sorted_in_full(bank, queries, k)
    np.testing.assert_array_equal(found.similarities.numpy(), similarities)
    np.testing.assert_array_equal(found.indices.numpy(), order)


@pytest.mark.parametrize("group", [8, 32])
def test_equals_topk_on_random_features_of_any_norm(group: int) -> None:
    generator = torch.Generator().manual_seed(group)
    bank = torch.randn(5000, 48, generator=generator) * torch.rand(5000, 1, generator=generator) * 9
    queries = torch.randn(130, 48, generator=generator, dtype=torch.float64)
    found = nearest_neighbours(bank.double(), queries, 50, blocks=SearchBlocks(64, 1024, group, 16))
    unit_bank = torch.nn.functional.normalize(bank).double()
    expected = (torch.nn.functional.normalize(queries) @ unit_bank.T).topk(50)
    torch.testing.assert_close(found.similarities.double(), expected.values, rtol=0, atol=1e-6)
    # Where two similarities differ by rounding alone either may come first.
    assert (found.indices == expected.indices).float().mean() > 0.999


def test_a_bank_in_rising_order_is_the_worst_case_and_right() -> None:
    angles = torch.linspace(3.0, 0.1, 4000, dtype=torch.float64)
    bank = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = nearest_neighbours(bank, torch.tensor([[1.0, 0.0]]), 100, blocks=SearchBlocks(8, 256, 16))
    assert found.indices[0].tolist() == list(range(3999, 3899, -1))


def test_opposite_and_zero_vectors_are_ordered() -> None:
    bank = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    found = nearest_neighbours(bank, torch.tensor([[2.0, 0.0]]), 4)
    assert found.indices[0].tolist() == [3, 1, 2, 0]
    assert found.similarities[0].tolist() == [1.0, 0.0, 0.0, -1.0]


def test_plus_and_minus_zero_are_equal() -> None:
    bank = torch.tensor([[-0.0], [0.0], [-0.0], [-1.0]])
    found = nearest_neighbours(bank, torch.tensor([[1.0]]), 4)
    assert found.indices[0].tolist() == [0, 1, 2, 3]


def test_no_query_gives_no_neighbour() -> None:
    assert nearest_neighbours(torch.ones(3, 2), torch.ones(0, 2), 2).indices.shape == (0, 2)


@pytest.mark.parametrize(
    ("bank", "queries", "k", "message"),
    [
        (torch.ones(3, 2), torch.ones(1, 4), 1, "do not fit"),
        (torch.ones(3, 2), torch.ones(2), 1, "do not fit"),
        (torch.ones(3, 2), torch.ones(1, 2), 4, "k=4 neighbours in a bank of 3"),
        (torch.ones(3, 2), torch.ones(1, 2), 0, "k=0"),
    ],
)
def test_bad_input_is_refused(bank: Tensor, queries: Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(bank, queries, k)


def test_keys_are_ordered_by_similarity_then_by_lower_index_and_come_back() -> None:
    generator = torch.Generator().manual_seed(0)
    similarities = torch.randn(500, generator=generator).round(decimals=1)
    similarities[:4] = torch.tensor([torch.inf, -torch.inf, -0.0, 1e-44])
    indices = torch.randint(2**32 - 1, (500,), generator=generator)
    keys = pack(similarities, indices)
    expected = sorted(range(500), key=lambda at: (-float(similarities[at]), int(indices[at])))
    assert keys.argsort(descending=True).tolist() == expected
    back, rows = unpack(keys)
    assert torch.equal(back, similarities)  # -0 comes back as +0, which is equal to it
    assert torch.equal(rows, indices)


def test_the_best_are_those_of_a_sort_of_all_similarities() -> None:
    generator = torch.Generator().manual_seed(1)
    bank, queries = torch.randn(700, 24, generator=generator), torch.randn(31, 24, generator=generator)
    scores, _ = unpack(find_best_keys(bank, queries, 40, "cpu", SearchBlocks(9, 128, 8, 4)))
    unit_bank, unit_queries = (normalise(each, "cpu").double() for each in (bank, queries))
    expected = (unit_queries @ unit_bank.T).topk(40).values
    torch.testing.assert_close(scores.double(), expected, rtol=1.2e-7, atol=1e-6)


def test_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(6)
    bank, queries = torch.randn(2000, 64, generator=generator), torch.randn(60, 64, generator=generator)
    found = nearest_neighbours(bank, queries, 10, blocks=SearchBlocks(16, 300, 8, 4))
    theirs = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(bank.double().numpy())
    distances, indices = theirs.kneighbors(queries.double().numpy())
    np.testing.assert_allclose(found.similarities, 1 - distances, rtol=0, atol=1e-6)
    assert (found.indices.numpy() == indices).mean() > 0.995  # theirs are of float64


@pytest.mark.gpu
@pytest.mark.parametrize("k", [1, 20, 301])
def test_equals_a_full_stable_sort_on_cuda(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    bank, queries = exact_vectors(generator, 301), exact_vectors(generator, 23)
    found = nearest_neighbours(bank, queries, k, "cuda", SearchBlocks(7, 50, 4, 3))
    similarities, _ = sorted_in_full(bank, queries, k)
    # Its kernels divide and add in another order: two roundings of float32 just below 1 a side, and ties may part.
    ulps = 4 * 2.0**-24
    np.testing.assert_allclose(found.similarities.cpu().numpy(), similarities, rtol=0, atol=ulps)
    unit_bank, unit_queries = normalise(bank, "cpu").double(), normalise(queries, "cpu").double()
    chosen = (unit_queries @ unit_bank.T).gather(1, found.indices.cpu())
    np.testing.assert_allclose(chosen.numpy(), similarities, rtol=0, atol=ulps)


def test_empty_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="group=0"):
        SearchBlocks(group=0)
