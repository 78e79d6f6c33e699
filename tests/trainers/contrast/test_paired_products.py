"""Products of chosen pairs equal one dot product after the other, on each way that computes them."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from trainers.contrast import paired_products, synthetic_draws
from trainers.contrast.paired_products import (
    computes_eagerly_on_cpu,
    products_of_pairs,
    products_with_rows,
    similarity_to,
)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chosen(rows: int, *shape: int, seed: int) -> Tensor:
    return torch.randint(rows, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["sampled", "gathered in one chunk", "gathered in many chunks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Accelerators gather: the same code runs here on a CPU."""
    if request.param != "sampled":
        monkeypatch.setattr(paired_products, "_can_be_sampled", lambda *_: False)
    if request.param == "gathered in many chunks":
        monkeypatch.setattr(synthetic_draws, "CPU_CHUNK_BYTES", 2**10)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products_with_rows(way: str, dtype: torch.dtype) -> None:
    left, right = random(13, 20, seed=0).to(dtype), random(40, 20, seed=1).to(dtype)
    index = chosen(25, 13, 30, seed=2)  # of a few rows: some come again, others never
    found = products_with_rows(left, right, index)
    assert found.dtype == dtype
    for i in range(13):
        for j in range(30):
            torch.testing.assert_close(found[i, j], torch.dot(left[i], right[index[i, j]]))


def test_what_is_sampled_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    whole = torch.sparse.sampled_addmm
    monkeypatch.setattr(torch.sparse, "sampled_addmm", lambda *a, **k: seen.append(1) or whole(*a, **k))
    products_with_rows(random(13, 20, seed=8), random(40, 20, seed=9), chosen(40, 13, 30, seed=10))
    products_of_pairs(random(50, 20, seed=11), chosen(50, 13, 30, seed=12), chosen(50, 13, 30, seed=13))
    assert len(seen) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products_of_pairs(way: str, dtype: torch.dtype) -> None:
    vectors = random(50, 20, seed=3).to(dtype)
    first, second = chosen(11, 13, 30, seed=4), chosen(50, 13, 30, seed=5)  # most rows are in no pair as first
    found = products_of_pairs(vectors, first, second)
    assert found.dtype == dtype
    for i in range(13):
        for j in range(30):
            torch.testing.assert_close(found[i, j], torch.dot(vectors[first[i, j]], vectors[second[i, j]]))


def test_a_queue_of_one_vector(way: str) -> None:
    vectors, left, index = random(1, 6, seed=6), random(4, 6, seed=7), torch.zeros(4, 3, dtype=torch.long)
    torch.testing.assert_close(products_of_pairs(vectors, index, index), vectors.square().sum().expand(4, 3))
    torch.testing.assert_close(products_with_rows(left, vectors, index), (left @ vectors[0]).unsqueeze(1).expand(4, 3))


def test_similarity_to_is_a_dot_product_per_vector() -> None:
    left, vectors = random(3, 7, seed=17), random(3, 5, 7, seed=18)
    expected = torch.tensor([[torch.dot(left[i], vectors[i, j]).item() for j in range(5)] for i in range(3)])
    torch.testing.assert_close(similarity_to(left, vectors).float(), expected)


def test_a_tensor_on_a_cpu_is_computed_eagerly() -> None:
    assert computes_eagerly_on_cpu(torch.empty(2))


def test_a_tensor_elsewhere_is_not() -> None:
    assert not computes_eagerly_on_cpu(torch.empty(2, device="meta"))


def test_nor_is_one_without_values() -> None:
    with FakeTensorMode():
        assert not computes_eagerly_on_cpu(torch.empty(2))


def test_nor_is_one_in_a_compiler_s_trace() -> None:
    def answer(tensor: torch.Tensor) -> torch.Tensor:
        return tensor + (1 if computes_eagerly_on_cpu(tensor) else 2)

    torch._dynamo.reset()
    assert torch.compile(answer, backend="eager", fullgraph=True)(torch.zeros(1)).item() == 2
    assert answer(torch.zeros(1)).item() == 1


def test_nor_is_a_wrapped_one_of_torch_func() -> None:
    seen = []

    def loss(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(computes_eagerly_on_cpu(tensor.detach()))
        return tensor.sum()

    torch.func.grad(loss)(torch.ones(3))
    assert seen == [False]
