"""The summary of real and synthetic negatives equals the one of a list of all vectors, written out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.contrast.fused_contrastive_loss import summarise_negatives
from trainers.contrast.synthetic_draws import SyntheticNegativesConfig, draw_noise, draw_synthetic
from trainers.contrast.synthetic_mixtures import largest_in_rows

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


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def all_negatives(query: Tensor, queue: Tensor, seed: int) -> Tensor:
    """Every real and synthetic negative of each query. Shape: (batch, num_negatives + num_synthetic, dim)."""
    generator = torch.Generator().manual_seed(seed)
    draws = draw_synthetic(CONFIG, query, generator)
    noise = torch.cat([each.clone() for each in draw_noise(query, 7, generator)])
    similarity = query @ queue.T
    _, hardest = largest_in_rows(similarity, CONFIG.num_hard_negatives)
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
    query, queue = unit(4, 16, seed=0), unit(20, 16, seed=1)
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
    query, queue = unit(4, 16, seed=3), unit(20, 16, seed=4)
    config = SyntheticNegativesConfig(num_hard_negatives=6)
    results = []
    for with_mean in (True, False):
        generator = torch.Generator().manual_seed(5)
        draws = draw_synthetic(config, query, generator)
        results.append((summarise_negatives(query, queue, draws, 6, 0.2, generator, with_mean), generator.get_state()))
    (full, first_state), (short, second_state) = results
    assert short.mean is None
    assert torch.equal(full.log_sum_exp, short.log_sum_exp)
    assert torch.equal(first_state, second_state)


def test_no_draws_leave_the_real_negatives() -> None:
    query, queue = unit(4, 16, seed=6), unit(20, 16, seed=7)
    summary = summarise_negatives(query, queue, {}, 6, 0.2)
    logits = query @ queue.T / 0.2
    torch.testing.assert_close(summary.log_sum_exp, logits.logsumexp(1, keepdim=True))
    torch.testing.assert_close(summary.mean, logits.softmax(1) @ queue)


def test_inputs_are_left_as_they_were() -> None:
    query, queue = unit(4, 16, seed=8), unit(20, 16, seed=9)
    query_before, queue_before = query.clone(), queue.clone()
    summarise_negatives(query, queue, draw_synthetic(CONFIG, query), CONFIG.num_hard_negatives, 0.2)
    assert torch.equal(query, query_before)
    assert torch.equal(queue, queue_before)


def test_noise_far_above_every_other_negative_does_not_overflow() -> None:
    # All real negatives are opposite to the query; noise this strong points anywhere, at similarities around 0.
    query = unit(4, 16, seed=10)
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
