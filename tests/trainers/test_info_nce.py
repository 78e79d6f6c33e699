"""InfoNCE: against a slow loop in plain Python, against autograd through cross-entropy, and at its edges."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.info_nce import info_nce


def unit_vectors(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def slow_loss(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> float:
    losses = []
    for q, k in zip(query.tolist(), key.tolist(), strict=True):
        similarities = [sum(a * b for a, b in zip(q, x, strict=True)) for x in [k, *queue.tolist()]]
        exponentials = [math.exp(each / temperature) for each in similarities]
        losses.append(-math.log(exponentials[0] / sum(exponentials)))
    return sum(losses) / len(losses)


def autograd_loss(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_equals_a_slow_loop(temperature: float) -> None:
    query, key, queue = unit_vectors(7, 5, seed=0), unit_vectors(7, 5, seed=1), unit_vectors(11, 5, seed=2)
    assert info_nce(query, key, queue, temperature).loss.item() == pytest.approx(
        slow_loss(query, key, queue, temperature), rel=1e-6
    )


@pytest.mark.parametrize(("batch", "num_negatives", "dim"), [(1, 1, 1), (5, 3, 2), (33, 130, 64)])
def test_gradients_equal_autograd(batch: int, num_negatives: int, dim: int) -> None:
    query, key = unit_vectors(batch, dim, seed=3).requires_grad_(), unit_vectors(batch, dim, seed=4).requires_grad_()
    queue = unit_vectors(num_negatives, dim, seed=5)
    ours = torch.autograd.grad(3 * info_nce(query, key, queue).loss, (query, key))
    theirs = torch.autograd.grad(3 * autograd_loss(query, key, queue, 0.2), (query, key))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6 * other.abs().max().item())


def test_gradients_equal_finite_differences() -> None:
    query = unit_vectors(3, 4, seed=6, dtype=torch.float64).requires_grad_()
    key = unit_vectors(3, 4, seed=7, dtype=torch.float64).requires_grad_()
    queue = unit_vectors(6, 4, seed=8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q, k: info_nce(q, k, queue).loss, (query, key))


def test_the_paper_s_temperature_is_the_default() -> None:
    query, key, queue = unit_vectors(4, 8, seed=9), unit_vectors(4, 8, seed=10), unit_vectors(16, 8, seed=11)
    assert torch.equal(info_nce(query, key, queue).loss, info_nce(query, key, queue, 0.2).loss)


def test_equal_similarities_give_the_logarithm_of_the_number_of_candidates() -> None:
    query = torch.eye(8)[:1]
    key, queue = torch.eye(8)[1:2], torch.eye(8)[2:]
    assert info_nce(query, key, queue).loss.item() == pytest.approx(math.log(7), rel=1e-6)


@pytest.mark.parametrize("temperature", [1e-3, 1e-2])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_small_temperatures_neither_overflow_nor_vanish(temperature: float, sign: float) -> None:
    query, queue = unit_vectors(6, 16, seed=12), unit_vectors(40, 16, seed=13)
    key = sign * query
    exact = 0.0
    for q, k in zip(query.double(), key.double(), strict=True):
        margin = ((queue.double() @ q - torch.dot(q, k)) / temperature).logsumexp(0).item()
        exact += (margin if margin > 40 else math.log1p(math.exp(margin))) / len(query)
    output = info_nce(query.requires_grad_(), key, queue, temperature)
    assert output.loss.item() == pytest.approx(exact, rel=1e-3, abs=1e-30)
    (gradient,) = torch.autograd.grad(output.loss, query)
    assert torch.isfinite(gradient).all()


def test_a_key_that_wins_clearly_keeps_loss_and_gradient_accurate() -> None:
    query = unit_vectors(4, 32, seed=14)
    queue = F.normalize(unit_vectors(50, 32, seed=15) - 2 * query.mean(0), dim=1)
    precise = query.double().requires_grad_()
    (expected,) = torch.autograd.grad(autograd_loss(precise, query.double(), queue.double(), 0.05), precise)
    leaf = query.clone().requires_grad_()
    output = info_nce(leaf, query, queue, 0.05)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(
        autograd_loss(query.double(), query.double(), queue.double(), 0.05).item(), rel=1e-5
    )
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.double(), expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())


def test_accuracy_counts_positives_above_every_negative() -> None:
    query, queue = unit_vectors(64, 6, seed=16), unit_vectors(9, 6, seed=17)
    key = F.normalize(query + unit_vectors(64, 6, seed=18), dim=1)
    wins = sum(
        all(torch.dot(q, k).item() > torch.dot(q, n).item() for n in queue) for q, k in zip(query, key, strict=True)
    )
    assert 0 < wins < 64
    assert info_nce(query, key, queue).accuracy.item() == pytest.approx(wins / 64)


def test_a_tie_is_no_win() -> None:
    same = torch.eye(4)[:1]
    assert info_nce(same, same, same.expand(3, 4)).accuracy.item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_also_under_autocast(dtype: torch.dtype) -> None:
    query, key, queue = (
        unit_vectors(8, 64, seed=19, dtype=dtype),
        unit_vectors(8, 64, seed=20, dtype=dtype),
        unit_vectors(99, 64, seed=21),
    )
    expected = info_nce(query.float(), key.float(), queue)
    leaf = query.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = info_nce(leaf, key, queue)
    assert output.loss.dtype == torch.float32
    assert torch.equal(output.loss.detach(), expected.loss)
    output.loss.backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == dtype


def test_gradients_go_to_query_and_key_only() -> None:
    query, key, queue = (unit_vectors(n, 8, seed=22 + n).requires_grad_() for n in (4, 4, 12))
    output = info_nce(query, key, queue)
    output.loss.backward()
    assert queue.grad is None
    assert query.grad is not None
    assert key.grad is not None
    assert not output.accuracy.requires_grad
    detached = info_nce(query, key.detach(), queue)
    assert detached.loss.requires_grad
    key_alone = info_nce(query.detach(), key, queue)
    (gradient,) = torch.autograd.grad(key_alone.loss, key)
    torch.testing.assert_close(gradient, key.grad)
    with torch.no_grad():
        assert not info_nce(query, key, queue).loss.requires_grad


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    query = unit_vectors(4, 8, seed=30).requires_grad_()
    loss = info_nce(query, unit_vectors(4, 8, seed=31), unit_vectors(5, 8, seed=32)).loss
    (gradient,) = torch.autograd.grad(loss.square(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((8,), (8,), (5, 8)), r"query has shape \(8,\)"),
        (((0, 8), (0, 8), (5, 8)), r"query has shape \(0, 8\)"),
        (((4, 8), (3, 8), (5, 8)), r"key has shape \(3, 8\).*\(4, 8\)"),
        (((4, 8), (4, 8), (5, 7)), r"queue has shape \(5, 7\).*\(num_negatives, 8\)"),
        (((4, 8), (4, 8), (0, 8)), r"queue has shape \(0, 8\)"),
        (((4, 8), (4, 8), (8,)), r"queue has shape \(8,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        info_nce(*(torch.ones(shape) for shape in shapes))


def test_integers_and_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"key has dtype torch\.int64"):
        info_nce(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64), torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"queue is on meta but the query on cpu"):
        info_nce(torch.ones(2, 3), torch.ones(2, 3), torch.ones(4, 3, device="meta"))


@pytest.mark.parametrize("temperature", [0.0, -0.2, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature=.* must be positive"):
        info_nce(torch.ones(2, 3), torch.ones(2, 3), torch.ones(4, 3), temperature)
