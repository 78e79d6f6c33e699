"""Closed forms: similarity, norm and parts of every mixture equal those of the vector written out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.contrast import synthetic_mixtures
from trainers.contrast.synthetic_draws import Draw
from trainers.contrast.synthetic_mixtures import (
    CLOSED_FORMS,
    HardNegatives,
    Mixture,
    hardest_negatives,
    largest_in_rows,
    noise_mixture,
)

BATCH, COUNT, DIM, NUM_NEGATIVES, NUM_HARD = 5, 12, 24, 40, 10


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def choice(seed: int) -> Tensor:
    return torch.randint(NUM_HARD, (BATCH, COUNT), generator=torch.Generator().manual_seed(seed))


def hard_negatives(query_length: float = 1.0) -> HardNegatives:
    query, queue = query_length * F.normalize(random(BATCH, DIM, seed=0), dim=1), random(NUM_NEGATIVES, DIM, seed=1)
    return hardest_negatives(query, queue, query @ queue.T, NUM_HARD)


def written_out(mixture: Mixture, hard: HardNegatives) -> Tensor:
    total = torch.zeros(BATCH, COUNT, DIM, dtype=torch.float64)
    for chosen, part in mixture.negatives:
        total += part.unsqueeze(-1) * hard.queue[hard.index.gather(1, chosen)]
    if mixture.direction is not None:
        direction, part = mixture.direction
        total += part.unsqueeze(-1) * direction.unsqueeze(1)
    return total


def test_the_hardest_negatives_are_the_most_similar_ones() -> None:
    hard = hard_negatives()
    similarity = hard.query @ hard.queue.T
    for row in range(BATCH):
        assert set(hard.index[row].tolist()) == set(similarity[row].argsort(descending=True)[:NUM_HARD].tolist())
        for column in range(NUM_HARD):
            negative = hard.queue[hard.index[row, column]]
            assert hard.products.similarity[row, column].item() == pytest.approx(torch.dot(hard.query[row], negative))
            assert hard.products.squared_norm[row, column].item() == pytest.approx(torch.dot(negative, negative))


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize(
    ("columns", "num"), [(4096, 256), (64, 1), (60, 7), (61, 3), (640, 10), (9, 9), (100, 1), (1, 1)]
)
def test_the_largest_values_are_those_of_a_full_sort(
    columns: int, num: int, eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Accelerators take torch's topk: the same code runs here on a CPU.
    monkeypatch.setattr(synthetic_mixtures, "computes_eagerly_on_cpu", lambda _: eager)
    values = random(6, columns, seed=columns)
    largest, index = largest_in_rows(values, num)
    assert torch.equal(values.gather(1, index), largest)
    assert torch.equal(largest.sort(1, descending=True).values, values.sort(1, descending=True).values[:, :num])
    ties = torch.zeros(2, columns)
    assert all(len(set(row.tolist())) == num for row in largest_in_rows(ties, num)[1])


def test_a_few_queries_keep_their_own_products() -> None:
    hard = hard_negatives(query_length=0.7)
    few, alone = hard.of(slice(1, 3)), hardest_negatives(*_of(hard, slice(1, 3)), NUM_HARD)
    for row in range(2):
        order, expected = few.index[row].argsort(), alone.index[row].argsort()
        assert torch.equal(few.index[row][order], alone.index[row][expected])
        for ours, theirs in zip(few.products, alone.products, strict=True):
            torch.testing.assert_close(ours[row][order], theirs[row][expected])
    torch.testing.assert_close(few.query_products, alone.query_products)


def _of(hard: HardNegatives, queries: slice) -> tuple[Tensor, Tensor, Tensor]:
    query = hard.query[queries]
    return query, hard.queue, query @ hard.queue.T


@pytest.mark.parametrize("query_length", [1.0, 0.7])
@pytest.mark.parametrize("kind", ["interpolation", "extrapolation", "mixup", "gradient_perturbation"])
def test_mixtures_with_one_more_known_vector(kind: str, query_length: float) -> None:
    hard, first, second = hard_negatives(query_length), choice(5), choice(6)
    c = torch.rand(BATCH, COUNT, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    q = hard.query.unsqueeze(1)
    n, partner = (hard.queue[hard.index.gather(1, each)] for each in (first, second))
    weight = c.unsqueeze(-1)
    expected = {
        "interpolation": weight * q + (1 - weight) * n,
        "extrapolation": q + weight * (n - q),
        "mixup": weight * n + (1 - weight) * partner,
        "gradient_perturbation": n + weight * q,
    }[kind]
    mixture = CLOSED_FORMS[kind](hard, Draw(first, c, partner=second))
    torch.testing.assert_close(written_out(mixture, hard), expected)
    torch.testing.assert_close(mixture.norm, expected.norm(dim=-1))
    torch.testing.assert_close(mixture.similarity, F.normalize(expected, dim=-1).mul(q).sum(-1))


def test_adversarial_perturbation_with_a_coordinate_that_is_zero() -> None:
    hard, first = hard_negatives(), choice(8)
    hard.query[:, 3] = 0
    hard = hardest_negatives(hard.query, hard.queue, hard.query @ hard.queue.T, NUM_HARD)
    eta = torch.tensor([[0.3]], dtype=torch.float64)
    expected = hard.queue[hard.index.gather(1, first)].clone()
    for row in range(BATCH):
        for column in range(DIM):
            q = hard.query[row, column].item()
            expected[row, :, column] += 0.3 * ((q > 0) - (q < 0))
    mixture = CLOSED_FORMS["adversarial_perturbation"](hard, Draw(first, eta))
    torch.testing.assert_close(written_out(mixture, hard), expected)
    torch.testing.assert_close(mixture.norm, expected.norm(dim=-1))
    torch.testing.assert_close(mixture.similarity, F.normalize(expected, dim=-1).mul(hard.query.unsqueeze(1)).sum(-1))


@pytest.mark.parametrize("query_length", [1.0, 0.7])
def test_noise_at_hand(query_length: float) -> None:
    hard, first, noise = hard_negatives(query_length), choice(17), random(BATCH, COUNT, DIM, seed=18)
    mixture = noise_mixture(hard, first, torch.tensor([[0.4]], dtype=torch.float64), noise)
    along_noise = 0.4 * noise
    expected = hard.queue[hard.index.gather(1, first)] + along_noise
    torch.testing.assert_close(written_out(mixture, hard) + along_noise, expected)
    torch.testing.assert_close(mixture.norm, expected.norm(dim=-1))
    torch.testing.assert_close(mixture.similarity, F.normalize(expected, dim=-1).mul(hard.query.unsqueeze(1)).sum(-1))


@pytest.mark.parametrize("kind", [*CLOSED_FORMS, "noise_injection"])
@pytest.mark.parametrize("factor", [1.0, -1.0, 0.0])
def test_parallel_opposite_and_zero_vectors_stay_finite(kind: str, factor: float) -> None:
    query = F.normalize(random(BATCH, DIM, seed=14), dim=1).float()
    queue = factor * query[:1].expand(NUM_NEGATIVES, DIM)
    hard = hardest_negatives(query, queue, query @ queue.T, NUM_HARD)
    half = torch.full((BATCH, COUNT), 0.5)
    if kind == "noise_injection":
        cancelling = -2 * queue[:1].expand(BATCH, COUNT, DIM)
        mixture = noise_mixture(hard, choice(15), half[:1, :1], cancelling.contiguous())
    else:
        mixture = CLOSED_FORMS[kind](hard, Draw(choice(15), half, choice(16)))
    assert torch.isfinite(mixture.norm).all()
    assert (mixture.norm > 0).all()
    assert (mixture.similarity.abs() < 1.001).all()
    assert all(torch.isfinite(part).all() for _, part in mixture.negatives)
