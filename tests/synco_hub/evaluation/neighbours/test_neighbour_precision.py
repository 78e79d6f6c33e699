"""The search in half precision against a full sort of float64 similarities, above all where features nearly tie."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from synco_hub.evaluation import knn_accuracy, nearest_neighbours
from synco_hub.evaluation.neighbours import neighbour_precision, neighbour_scan
from synco_hub.evaluation.neighbours.neighbour_precision import (
    candidates_for,
    exact_keys_from_half,
    exact_similarities,
    half_precision,
    highest_left_out,
)
from synco_hub.evaluation.neighbours.neighbour_scan import SearchBlocks, best_keys, normalised, product_dtype, unpacked

HALVES = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
SMALL = SearchBlocks(16, 300, 8, 4)


def sorted_in_full(bank: Tensor, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every similarity of the float32 unit vectors in float64, rounded once, in a stable sort."""
    unit_bank, unit_queries = (F.normalize(each.float()).double().numpy() for each in (bank, queries))
    similarities = (unit_queries @ unit_bank.T).astype(np.float32)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, order, axis=1), order


def random_features(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(2000, 64, generator=generator), torch.randn(60, 64, generator=generator)


def clustered_features(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    centres = torch.randn(20, 64, generator=generator)
    chosen = torch.randint(20, (2060,), generator=generator)
    values = centres[chosen] + 0.05 * torch.randn(2060, 64, generator=generator)
    return values[:2000], values[2000:]


def narrow_cone(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every similarity above 0.999: what a network before its training gives."""
    values = 1.0 + 0.02 * torch.randn(2060, 64, generator=generator)
    return values[:2000], values[2000:]


def near_ties(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Around each query hundreds of rows whose similarities differ in the last bits of a float32, if at all."""
    queries = torch.randn(60, 64, generator=generator)
    bank = queries[torch.arange(2000) % 8] + 3e-4 * torch.randn(2000, 64, generator=generator)
    bank[1000:1400] = bank[:400]  # exact twins
    return bank, queries


def collapsed(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One feature for all images but the last."""
    bank = torch.randn(1, 64, generator=generator).expand(2000, -1).clone()
    bank[-1] += 1e-3
    return bank, bank[-60:].clone()


KINDS = [random_features, clustered_features, narrow_cone, near_ties, collapsed]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 20, 200, 2000])
@HALVES
def test_equals_a_full_sort(kind: Callable[..., tuple[Tensor, Tensor]], k: int, half: torch.dtype) -> None:
    bank, queries = kind(torch.Generator().manual_seed(k))
    similarities, indices = unpacked(exact_keys_from_half(bank, queries, k, half, "cpu", SMALL))
    expected, order = sorted_in_full(bank, queries, k)
    np.testing.assert_array_equal(indices.numpy(), order)
    np.testing.assert_array_equal(similarities.numpy(), expected)


@pytest.mark.parametrize("kind", KINDS)
@HALVES
def test_agrees_with_the_float32_search_up_to_its_own_rounding(kind: Any, half: torch.dtype) -> None:
    bank, queries = kind(torch.Generator().manual_seed(5))
    found = nearest_neighbours(bank, queries, 50, precision="bf16" if half == torch.bfloat16 else "fp16")
    plain = nearest_neighbours(bank, queries, 50, precision="fp32")
    torch.testing.assert_close(found.similarities, plain.similarities, rtol=0, atol=1e-6)
    # Of rows that float32 sums can tell apart, none is missing and none is in another place.
    gaps = (found.similarities[:, :-1] - found.similarities[:, 1:]).double()
    apart = (F.pad(gaps, (1, 0), value=1.0) > 2e-6) & (F.pad(gaps, (0, 1), value=0.0) > 2e-6)
    assert torch.equal(found.indices[apart], plain.indices[apart])


@HALVES
def test_agrees_with_scikit_learn(half: torch.dtype) -> None:
    bank, queries = random_features(torch.Generator().manual_seed(6))
    _, indices = unpacked(exact_keys_from_half(bank, queries, 10, half, "cpu", SMALL))
    theirs = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(bank.double().numpy())
    agree = indices.numpy() == theirs.kneighbors(queries.double().numpy(), return_distance=False)
    assert agree.mean() > 0.995  # it measures float64 features, not their float32 unit vectors


def test_half_precision_alone_would_miss_neighbours() -> None:
    bank, queries = near_ties(torch.Generator().manual_seed(7))
    _, candidates = unpacked(best_keys(bank, queries[:8], candidates_for(20, 2000), torch.bfloat16, "cpu", SMALL))
    _, order = sorted_in_full(bank, queries[:8], 20)
    assert not all(set(order[row]) <= set(candidates[row].tolist()) for row in range(8))


@HALVES
def test_only_what_is_not_certain_is_searched_again(half: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counting(bank: Tensor, queries: Tensor, count: int, dtype: torch.dtype, *rest: Any) -> Tensor:
        asked.append((dtype, len(queries)))
        return best_keys(bank, queries, count, dtype, *rest)

    monkeypatch.setattr(neighbour_precision, "best_keys", counting)
    generator = torch.Generator().manual_seed(8)
    bank, queries = random_features(generator)
    exact_keys_from_half(bank, queries, 5, half, "cpu", SMALL)
    assert asked == [(half, 60)]
    asked.clear()
    bank[:100] = queries[3]  # more twins around one query than there are candidates
    found = unpacked(exact_keys_from_half(bank, queries, 5, half, "cpu", SMALL))[1]
    assert asked == [(half, 60), (torch.float64, 1)]
    np.testing.assert_array_equal(found.numpy(), sorted_in_full(bank, queries, 5)[1])
    asked.clear()
    exact_keys_from_half(bank[:30], queries, 5, half, "cpu", SMALL)  # every row is a candidate
    assert asked == [(half, 60)]


def heavy_tailed(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Most entries of the unit vectors are below the normal numbers of float16, many below all of its numbers."""
    values = torch.randn(2060, 64, generator=generator).mul(4).exp().pow(2)
    return values[:2000], values[2000:]


@pytest.mark.parametrize("kind", [*KINDS, heavy_tailed])
@HALVES
def test_no_score_is_off_by_more_than_the_bound(kind: Any, half: torch.dtype) -> None:
    bank, queries = kind(torch.Generator().manual_seed(9))
    every = torch.arange(len(bank)).expand(len(queries), -1)
    exact, bound = exact_similarities(bank, queries, every, half, "cpu", SMALL)
    unit_bank, unit_queries = normalised(bank, "cpu"), normalised(queries, "cpu")
    torch.testing.assert_close(exact.double(), unit_queries.double() @ unit_bank.double().T, rtol=0, atol=6e-8)
    summed = unit_queries.to(half).float() @ unit_bank.to(half).float().T
    assert ((summed - exact).abs() <= bound[:, None]).all()
    written = (unit_queries.to(half) @ unit_bank.to(half).T).float()
    for column in range(0, len(bank), 97):
        limit = highest_left_out(written[:, column], bound, half, "cpu")
        assert (exact[:, column] <= limit).all()
    roundoff = torch.finfo(half).eps / 2
    assert bound.max() < 2.1 * roundoff + 1e-4


@HALVES
def test_the_bound_is_reached_where_every_entry_is_rounded_the_same_way(half: torch.dtype) -> None:
    # Entries just below the middle between two numbers of the half precision: the most that rounding down takes.
    roundoff = torch.finfo(half).eps / 2
    unit = torch.full((1, 64), 0.125 * (1 + 0.98 * roundoff))
    exact = (unit.double() @ unit.double().T).item()
    scored = (unit.to(half).double() @ unit.to(half).double().T).item()
    taken = float(neighbour_precision._rounded_off(unit, half)) * 2
    assert exact - scored == pytest.approx(taken, rel=0.02)
    assert taken == pytest.approx(2 * 0.98 * roundoff, rel=1e-3)


@HALVES
def test_float32_sums_of_halves_need_no_room_for_rounding_them(half: torch.dtype, monkeypatch: Any) -> None:
    """As on CUDA, whose matrix product is stood in for by one of the same rounded vectors."""
    for module in (neighbour_scan, neighbour_precision):
        monkeypatch.setattr(module, "product_dtype", lambda dtype, device: product_dtype(dtype, "cuda"))
    multiply = torch.mm

    def mm(left: Tensor, right: Tensor, out_dtype: torch.dtype | None = None, **rest: Any) -> Tensor:
        return multiply(left.float(), right.float()) if out_dtype is not None else multiply(left, right, **rest)

    monkeypatch.setattr(torch, "mm", mm)
    for kind in (random_features, near_ties):
        bank, queries = kind(torch.Generator().manual_seed(10))
        _, indices = unpacked(exact_keys_from_half(bank, queries, 20, half, "cpu", SMALL))
        np.testing.assert_array_equal(indices.numpy(), sorted_in_full(bank, queries, 20)[1])
    score, bound = torch.tensor([0.5]), torch.tensor([0.01], dtype=torch.float64)
    assert highest_left_out(score, bound, half, "cuda").item() == pytest.approx(0.51)


@pytest.mark.parametrize("kind", [random_features, clustered_features])
def test_the_vote_is_that_of_the_float32_search(kind: Any) -> None:
    bank, queries = kind(torch.Generator().manual_seed(11))
    labels = torch.randint(7, (len(bank),), generator=torch.Generator().manual_seed(12))
    truth = torch.randint(7, (len(queries),), generator=torch.Generator().manual_seed(13))
    plain, *others = (
        knn_accuracy(bank, labels, queries, truth, [1, 10, 200], 7, precision=precision)
        for precision in ("fp32", "bf16", "fp16")
    )
    assert all(other == plain for other in others)


def test_the_half_that_a_name_means() -> None:
    assert half_precision("fp32", "cuda") is None
    assert half_precision("fp32", "mps") is None
    assert half_precision("bf16", "cpu") == torch.bfloat16
    assert half_precision("fp16", torch.device("cuda", 1)) == torch.float16
    with pytest.raises(ValueError, match="'fp16' on mps, which has no float64"):
        half_precision("fp16", "mps")
    with pytest.raises(ValueError, match="precision 'fp8': choose one of fp32, bf16, fp16"):
        half_precision("fp8", "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@HALVES
def test_equals_a_full_sort_on_cuda(kind: Any, half: torch.dtype) -> None:
    bank, queries = kind(torch.Generator().manual_seed(14))
    assert product_dtype(half, "cuda") == torch.float32
    found = unpacked(exact_keys_from_half(bank, queries, 20, half, "cuda", SMALL).cpu())
    unit = [normalised(each, "cuda").cpu() for each in (bank, queries)]
    expected = sorted_in_full(*unit, 20)
    np.testing.assert_allclose(found[0].numpy(), expected[0], rtol=0, atol=2e-7)
    assert (found[1].numpy() == expected[1]).mean() > 0.99
