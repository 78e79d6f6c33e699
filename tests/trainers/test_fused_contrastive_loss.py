"""Summary, closed forms and products of chosen pairs equal those of the vectors written out, on each way."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from trainers import fused_contrastive_loss
from trainers.fused_contrastive_loss import (
    CLOSED_FORMS,
    HardNegatives,
    Mixture,
    can_be_sampled,
    compute_similarity_to,
    computes_eagerly_on_cpu,
    find_hardest_negatives,
    find_largest_in_rows,
    multiply_pairs,
    multiply_with_rows,
    noise_mixture,
    summarise_negatives,
)
from trainers.settings import SyntheticNegativesConfig
from trainers.synthetic_draws import Draw, draw_noise, draw_synthetic

CONFIG = SyntheticNegativesConfig(
    num_hard_negatives=6,
    counts={
        "interpolation": 5,
        "extrapolation": 4,
        "mixup": 3,
        "noise_injection": 7,
        "gradient_perturbation": 2,
        "adversarial_perturbation": 1,
    },
    noise_std=0.3,
    gradient_step=0.2,
    adversarial_step=0.1,
)


def unit_vectors(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def all_negatives(query: Tensor, queue: Tensor, seed: int) -> Tensor:
    """Every real and synthetic negative of each query. Shape: (batch, num_negatives + num_synthetic, dim)."""
    generator = torch.Generator().manual_seed(seed)
    draws = draw_synthetic(CONFIG, query, generator)
    noise = torch.cat([each.clone() for each in draw_noise(query, 7, generator)])
    similarity = query @ queue.T
    _, hardest = find_largest_in_rows(similarity, CONFIG.num_hard_negatives)
    rows = []
    for i, q in enumerate(query):
        vectors = list(queue)
        for kind, draw in draws.items():
            coefficients = draw.coefficient.expand(
                draw.negative.shape if draw.coefficient.numel() > 1 else (len(query), draw.negative.shape[1])
            )
            for j, which in enumerate(draw.negative[i]):
                n, c = queue[hardest[i, which]], coefficients[i, j]
                if kind == "interpolation":
                    vector = c * q + (1 - c) * n
                elif kind == "extrapolation":
                    vector = q + c * (n - q)
                elif kind == "mixup":
                    assert draw.partner is not None
                    vector = c * n + (1 - c) * queue[hardest[i, draw.partner[i, j]]]
                elif kind == "noise_injection":
                    vector = n + c * noise[i, j]
                elif kind == "gradient_perturbation":
                    vector = n + c * q
                else:
                    vector = n + c * torch.sign(q)
                vectors.append(vector / vector.norm())
        rows.append(torch.stack(vectors))
    return torch.stack(rows)


@pytest.mark.parametrize("temperature", [0.01, 0.2, 2.0])
def test_the_summary_is_that_of_all_vectors(temperature: float) -> None:
    query, queue = unit_vectors(4, 16, seed=0), unit_vectors(20, 16, seed=1)
    negatives = all_negatives(query, queue, seed=2)
    logits = torch.einsum("bd,bnd->bn", query, negatives) / temperature
    generator = torch.Generator().manual_seed(2)
    draws = draw_synthetic(CONFIG, query, generator)
    summary = summarise_negatives(query, queue, draws, CONFIG.num_hard_negatives, temperature, generator)
    torch.testing.assert_close(summary.maximum, logits.amax(1, keepdim=True))
    torch.testing.assert_close(summary.log_sum_exp, logits.logsumexp(1, keepdim=True))
    assert summary.mean is not None
    torch.testing.assert_close(summary.mean, torch.einsum("bn,bnd->bd", logits.softmax(1), negatives))


def test_without_the_mean_the_rest_and_the_randomness_are_the_same() -> None:
    query, queue = unit_vectors(4, 16, seed=3), unit_vectors(20, 16, seed=4)
    results = []
    for with_mean in (True, False):
        generator = torch.Generator().manual_seed(5)
        draws = draw_synthetic(CONFIG, query, generator)
        results.append((summarise_negatives(query, queue, draws, 6, 0.2, generator, with_mean), generator.get_state()))
    (full, first_state), (short, second_state) = results
    assert short.mean is None
    assert torch.equal(full.log_sum_exp, short.log_sum_exp)
    assert torch.equal(first_state, second_state)


def test_no_draws_leave_the_real_negatives() -> None:
    query, queue = unit_vectors(4, 16, seed=6), unit_vectors(20, 16, seed=7)
    summary = summarise_negatives(query, queue, {}, 6, 0.2)
    logits = query @ queue.T / 0.2
    torch.testing.assert_close(summary.log_sum_exp, logits.logsumexp(1, keepdim=True))
    torch.testing.assert_close(summary.mean, logits.softmax(1) @ queue)


def test_inputs_are_left_as_they_were() -> None:
    query, queue = unit_vectors(4, 16, seed=8), unit_vectors(20, 16, seed=9)
    query_before, queue_before = query.clone(), queue.clone()
    summarise_negatives(query, queue, draw_synthetic(CONFIG, query), CONFIG.num_hard_negatives, 0.2)
    assert torch.equal(query, query_before)
    assert torch.equal(queue, queue_before)


def test_noise_far_above_every_other_negative_does_not_overflow() -> None:
    # All real negatives are opposite to the query; noise this strong points anywhere, at similarities around 0.
    query = unit_vectors(4, 16, seed=10)
    queue, temperature = -query[:1].expand(20, 16).contiguous(), 1e-3
    query = query[:1].expand(4, 16).contiguous()
    config = SyntheticNegativesConfig(num_hard_negatives=6, counts={"noise_injection": 7}, noise_std=100.0)
    generator = torch.Generator().manual_seed(11)
    draws = draw_synthetic(config, query, generator)
    state = generator.get_state()
    summary = summarise_negatives(query, queue, draws, 6, temperature, generator)
    generator.set_state(state)
    noise = torch.cat([each.clone() for each in draw_noise(query, 7, generator)])
    vectors = F.normalize(-query[0] + 100 * noise, dim=-1)  # every hard negative is −q
    logits = torch.einsum("bd,bnd->bn", query, torch.cat([queue.expand(4, 20, 16), vectors], dim=1)) / temperature
    torch.testing.assert_close(summary.maximum, logits.amax(1, keepdim=True))
    torch.testing.assert_close(summary.log_sum_exp, logits.logsumexp(1, keepdim=True))
    assert (summary.maximum - logits[:, :1] > 800).all()  # exp(800) is no double


BATCH, COUNT, DIM, NUM_NEGATIVES, NUM_HARD = 5, 12, 24, 40, 10


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def choice(seed: int) -> Tensor:
    return torch.randint(NUM_HARD, (BATCH, COUNT), generator=torch.Generator().manual_seed(seed))


def hard_negatives(query_length: float = 1.0) -> HardNegatives:
    query, queue = query_length * F.normalize(random(BATCH, DIM, seed=0), dim=1), random(NUM_NEGATIVES, DIM, seed=1)
    return find_hardest_negatives(query, queue, query @ queue.T, NUM_HARD)


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
    monkeypatch.setattr(fused_contrastive_loss, "computes_eagerly_on_cpu", lambda _: eager)
    values = random(6, columns, seed=columns)
    largest, index = find_largest_in_rows(values, num)
    assert torch.equal(values.gather(1, index), largest)
    assert torch.equal(largest.sort(1, descending=True).values, values.sort(1, descending=True).values[:, :num])
    ties = torch.zeros(2, columns)
    assert all(len(set(row.tolist())) == num for row in find_largest_in_rows(ties, num)[1])


def test_a_few_queries_keep_their_own_products() -> None:
    hard = hard_negatives(query_length=0.7)
    few, alone = hard.of(slice(1, 3)), find_hardest_negatives(*_of(hard, slice(1, 3)), NUM_HARD)
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
    hard = find_hardest_negatives(hard.query, hard.queue, hard.query @ hard.queue.T, NUM_HARD)
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
    hard = find_hardest_negatives(query, queue, query @ queue.T, NUM_HARD)
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


def chosen(rows: int, *shape: int, seed: int) -> Tensor:
    return torch.randint(rows, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products_with_rows(dtype: torch.dtype) -> None:
    left, right = (
        random(13, 20, seed=0).to(dtype),
        random(40, 20, seed=1).to(dtype),
    )
    index = chosen(25, 13, 30, seed=2)  # of a few rows: some come again, others never
    found = multiply_with_rows(left, right, index)
    assert found.dtype == dtype
    for i in range(13):
        for j in range(30):
            torch.testing.assert_close(found[i, j], torch.dot(left[i], right[index[i, j]]))


def test_what_is_sampled_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    whole = torch.sparse.sampled_addmm
    monkeypatch.setattr(torch.sparse, "sampled_addmm", lambda *a, **k: seen.append(1) or whole(*a, **k))
    multiply_with_rows(
        random(13, 20, seed=8),
        random(40, 20, seed=9),
        chosen(40, 13, 30, seed=10),
    )
    multiply_pairs(random(50, 20, seed=11), chosen(50, 13, 30, seed=12), chosen(50, 13, 30, seed=13))
    assert len(seen) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products_of_pairs(dtype: torch.dtype) -> None:
    vectors = random(50, 20, seed=3).to(dtype)
    first, second = chosen(11, 13, 30, seed=4), chosen(50, 13, 30, seed=5)  # most rows are in no pair as first
    found = multiply_pairs(vectors, first, second)
    assert found.dtype == dtype
    for i in range(13):
        for j in range(30):
            torch.testing.assert_close(found[i, j], torch.dot(vectors[first[i, j]], vectors[second[i, j]]))


def test_a_queue_of_one_vector() -> None:
    vectors, left, index = random(1, 6, seed=6), random(4, 6, seed=7), torch.zeros(4, 1, dtype=torch.long)
    torch.testing.assert_close(multiply_pairs(vectors, index[:1], index[:1]), vectors.square().sum().expand(1, 1))
    torch.testing.assert_close(multiply_with_rows(left, vectors, index), (left @ vectors[0]).unsqueeze(1))


@pytest.mark.parametrize(
    ("counts", "num", "sampled"),
    [
        ({"mixup": 9}, 6, True),
        ({"mixup": 10}, 6, False),
        ({"adversarial_perturbation": 7}, 6, False),
        ({"adversarial_perturbation": 6}, 6, True),
        ({"interpolation": 99}, 6, True),
    ],
)
def test_what_can_be_sampled(counts: dict[str, int], num: int, sampled: bool) -> None:
    query = random(4, 8, seed=1)
    draws = draw_synthetic(SyntheticNegativesConfig(num_hard_negatives=2, counts=counts), query)
    assert can_be_sampled(query, random(num, 8, seed=2), draws) == sampled
    assert not can_be_sampled(query.to("meta"), random(num, 8, seed=2).to("meta"), draws)


def test_similarity_to_is_a_dot_product_per_vector() -> None:
    left, vectors = random(3, 7, seed=17), random(3, 5, 7, seed=18)
    expected = torch.tensor([[torch.dot(left[i], vectors[i, j]).item() for j in range(5)] for i in range(3)])
    torch.testing.assert_close(compute_similarity_to(left, vectors).float(), expected)


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
