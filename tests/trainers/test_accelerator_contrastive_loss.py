"""The form for accelerators equals a loop over vectors written out, and takes few launches on a pretended GPU."""

import pytest
import torch
from pretended_gpu import pretended_gpu
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from trainers import SyntheticNegatives, synthetic_draws
from trainers.accelerator_contrastive_loss import summarise_in_few_kernels
from trainers.fused_contrastive_loss import find_largest_in_rows
from trainers.settings import SyntheticNegativesConfig
from trainers.synthetic_draws import draw_noise, draw_synthetic
from trainers.synthetic_negatives import STRATEGIES

KINDS = list(STRATEGIES)
NUM_HARD, STRENGTHS = 6, {"noise_std": 0.3, "gradient_step": 0.2, "adversarial_step": 0.1}


def unit_vectors(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def every_negative(query: Tensor, queue: Tensor, config: SyntheticNegativesConfig, seed: int) -> list[Tensor]:
    """A matrix a query and direction: all its real and synthetic negatives, each written out by its definition."""
    generator, rows = torch.Generator().manual_seed(seed), query.flatten(0, 1)
    draws = draw_synthetic(config, rows, generator)
    noise_count = config.active_counts.get("noise_injection", 0)
    noise = torch.cat([each.clone() for each in draw_noise(rows, noise_count, generator)]) if noise_count else None
    matrices = []
    for i, q in enumerate(rows):
        own_queue = queue[i // query.shape[1]]
        hardest = find_largest_in_rows((query @ queue.mT).flatten(0, 1), config.num_hard_negatives)[1][i]
        vectors = list(own_queue)
        for kind, draw in draws.items():
            for j, which in enumerate(draw.negative[i]):
                coefficient = draw.coefficient.expand(len(rows), draw.negative.shape[1])[i, j]
                partner = q
                if draw.partner is not None:
                    partner = own_queue[hardest[draw.partner[i, j]]]
                elif noise is not None and kind == "noise_injection":
                    partner = noise[i, j]
                vector = STRATEGIES[kind](q, own_queue[hardest[which]], partner, coefficient)
                vectors.append(vector / vector.norm())
        matrices.append(torch.stack(vectors))
    return matrices


def draws_of(query: Tensor, config: SyntheticNegativesConfig, seed: int) -> tuple[dict[str, object], torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return draw_synthetic(config, query.flatten(0, 1), generator), generator


@pytest.mark.parametrize("chunk_bytes", [2**22, 2**9])
@pytest.mark.parametrize("temperature", [0.001, 0.2, 2.0])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kinds", [KINDS, *([kind] for kind in KINDS), KINDS[2:4], KINDS[4:], KINDS[::2], []])
def test_the_summary_is_that_of_all_vectors(
    kinds: list[str], directions: int, temperature: float, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_draws, "CPU_CHUNK_BYTES", chunk_bytes)
    counts = {kind: 3 + KINDS.index(kind) for kind in kinds}
    config = SyntheticNegativesConfig(num_hard_negatives=NUM_HARD, counts=counts, **STRENGTHS)
    query, queue = unit_vectors(directions, 4, 16, seed=0), unit_vectors(directions, 20, 16, seed=1)
    draws, generator = draws_of(query, config, seed=2)
    summary = summarise_in_few_kernels(query, queue, draws, NUM_HARD, temperature, generator)
    assert summary.mean is not None
    for row, negatives in enumerate(every_negative(query, queue, config, seed=2)):
        logits = negatives @ query.flatten(0, 1)[row] / temperature
        torch.testing.assert_close(summary.maximum[row, 0], logits.max())
        torch.testing.assert_close(summary.log_sum_exp[row, 0], logits.logsumexp(0))
        torch.testing.assert_close(summary.mean[row], logits.softmax(0) @ negatives)


def test_inputs_stay_and_without_the_mean_the_rest_is_the_same() -> None:
    config = SyntheticNegativesConfig(num_hard_negatives=NUM_HARD)
    query, queue = unit_vectors(2, 4, 16, seed=3), unit_vectors(2, 20, 16, seed=4)
    before = query.clone(), queue.clone()
    results = []
    for with_mean in (True, False):
        draws, generator = draws_of(query, config, seed=5)
        results.append(summarise_in_few_kernels(query, queue, draws, NUM_HARD, 0.2, generator, with_mean))
    assert results[1].mean is None
    assert torch.equal(results[0].log_sum_exp, results[1].log_sum_exp)
    assert torch.equal(query, before[0])
    assert torch.equal(queue, before[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1.0, -1.0, 0.0])
def test_parallel_opposite_and_zero_vectors_stay_finite(kind: str, factor: float) -> None:
    config = SyntheticNegativesConfig(num_hard_negatives=NUM_HARD, counts={kind: 9}, gradient_step=1.0)
    query = unit_vectors(1, 1, 16, seed=6).expand(1, 4, 16).float().contiguous()
    queue = (factor * query[:, :1]).expand(1, 20, 16).contiguous()
    draws, generator = draws_of(query, config, seed=7)
    summary = summarise_in_few_kernels(query, queue, draws, NUM_HARD, 0.2, generator)
    assert all(torch.isfinite(each).all() for each in summary if each is not None)
    assert (summary.maximum.abs() < 1.001 / 0.2).all()


def test_noise_far_above_every_other_negative_does_not_overflow() -> None:
    query = unit_vectors(1, 1, 16, seed=10).expand(1, 4, 16).contiguous()
    config = SyntheticNegativesConfig(num_hard_negatives=NUM_HARD, counts={"noise_injection": 7}, noise_std=100.0)
    queue = -query[:, :1].expand(1, 20, 16).contiguous()
    draws, generator = draws_of(query, config, seed=11)
    summary = summarise_in_few_kernels(query, queue, draws, NUM_HARD, 1e-3, generator)
    for row, negatives in enumerate(every_negative(query, queue, config, seed=11)):
        logits = negatives @ query[0, row] / 1e-3
        assert logits.max() - logits[0] > 710  # exp of that is no double
        torch.testing.assert_close(summary.log_sum_exp[row, 0], logits.logsumexp(0))


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_both_directions_at_once_equal_each_written_out() -> None:
    module = SyntheticNegatives(num_hard_negatives=NUM_HARD, counts=dict.fromkeys(KINDS, 4), **STRENGTHS)
    query, key, queue = (unit_vectors(2, n, 16, seed=n) for n in (5, 6, 20))
    query, key = query.requires_grad_(), key[:, :5].clone().requires_grad_()
    first, second = ((query[i], key[i], queue[i]) for i in range(2))
    output = module.contrast_both(first, second, torch.Generator().manual_seed(8))
    gradients = torch.autograd.grad(output.loss, (query, key))
    loss, right = torch.zeros((), dtype=torch.float64), []
    leaves = query.detach().requires_grad_(), key.detach().requires_grad_()
    for row, negatives in enumerate(every_negative(query.detach(), queue, module.config, seed=8)):
        q, k = (leaf.flatten(0, 1)[row] for leaf in leaves)
        logits = torch.cat([(q @ k)[None], negatives @ q]) / 0.2
        loss = loss + (logits.logsumexp(0) - logits[0]) / 5
        right.append(float(logits.argmax() == 0))
    torch.testing.assert_close(output.loss, loss)
    assert output.accuracy.item() == pytest.approx(sum(right) / len(right))
    for ours, theirs in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_on_a_cpu_both_directions_are_those_of_two_calls() -> None:
    module = SyntheticNegatives(num_hard_negatives=NUM_HARD)
    query, key, queue = (unit_vectors(2, n, 16, seed=n).float() for n in (5, 5, 20))
    directions = [(query[i], key[i], queue[i]) for i in range(2)]
    generator = torch.Generator().manual_seed(9)
    expected = [module.contrast(*direction, generator) for direction in directions]
    output = module.contrast_both(*directions, torch.Generator().manual_seed(9))
    assert output.loss.item() == (expected[0].loss + expected[1].loss).item()
    assert output.accuracy.item() == (expected[0].accuracy + expected[1].accuracy).item() / 2


# What an accelerator answers without a kernel of its own.
_NO_LAUNCH = "device sym_size view _unsafe_view expand unsqueeze squeeze slice select t transpose detach alias split "
_NO_LAUNCH += "split_with_sizes as_strided empty new_empty empty_like unbind promote_types lift_fresh"


class Launches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.number += function.overloadpacket.__name__ not in _NO_LAUNCH.split()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("batch", "most"), [(128, 70), (512, 110)])
def test_a_direction_takes_few_launches(batch: int, most: int) -> None:
    with pretended_gpu() as gpu, Launches() as launches:
        directions = [tuple(gpu.put(torch.empty(n, 256)) for n in (batch, batch, 4096)) for _ in range(2)]
        module = SyntheticNegatives()
        module.knows_lengths = True  # is looked at once, and waits for the values
        before = launches.number
        module.contrast_both(*directions)
        assert before < launches.number
        assert (launches.number - before) / 2 <= most
