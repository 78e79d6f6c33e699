"""The six kinds against formulas, autograd and limits; the fused loss against the readable one and a slow loop."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.info_nce import info_nce
from trainers.synthetic_negatives import (
    STRATEGIES,
    SyntheticNegatives,
    adversarial_perturbation,
    gradient_perturbation,
)

KINDS = [
    "interpolation",
    "extrapolation",
    "mixup",
    "noise_injection",
    "gradient_perturbation",
    "adversarial_perturbation",
]
EVERY_SELECTION = [*([kind] for kind in KINDS), KINDS]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit_vectors(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator(seed), dtype=torch.float64), dim=-1).to(dtype)


def batch_of(batch: int, dim: int, num_negatives: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    query = unit_vectors(batch, dim, seed=seed)
    return (
        query,
        F.normalize(query + 0.5 * unit_vectors(batch, dim, seed=seed + 1), dim=1),
        unit_vectors(num_negatives, dim, seed=seed + 2),
    )


def small(kinds: list[str] = KINDS, **settings: Any) -> SyntheticNegatives:
    """Few negatives and large steps, so that every term matters to the loss."""
    steps = {"noise_std": 0.2, "gradient_step": 0.3, "adversarial_step": 0.1}
    return SyntheticNegatives(num_hard_negatives=8, counts=dict.fromkeys(kinds, 10), **{**steps, **settings})


def sample_one(kind: str, seed: int, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Returns query (batch, 1, dim), synthetic vectors (batch, count, dim) and each query's hard negatives."""
    query, _, queue = batch_of(5, 12, 30, seed)
    vectors = small([kind], **settings).sample(query, queue, generator(seed))[kind]
    hardest = torch.stack([queue[(queue @ q).argsort(descending=True)[:8]] for q in query])
    return query.unsqueeze(1), vectors, hardest


def test_the_table_names_the_six_kinds_in_the_paper_s_order() -> None:
    assert list(STRATEGIES) == KINDS
    assert SyntheticNegatives().num_synthetic == 768


def test_samples_are_detached_unit_vectors() -> None:
    query, _, queue = batch_of(3, 16, 300, seed=0)
    synthetic = SyntheticNegatives().sample(query.requires_grad_(), queue, generator(0))
    assert list(synthetic) == KINDS
    for vectors in synthetic.values():
        assert vectors.shape == (3, 128, 16)
        assert not vectors.requires_grad
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3, 128))


def test_interpolation_ends_at_the_negative_and_at_the_bisector() -> None:
    query, vectors, hardest = sample_one("interpolation", seed=1, interpolation_range=(0.0, 0.0))
    assert torch.cdist(vectors, hardest).amin(-1).max() < 1e-3
    query, vectors, hardest = sample_one("interpolation", seed=1, interpolation_range=(0.5, 0.5))
    assert torch.cdist(vectors, F.normalize(query + hardest, dim=-1)).amin(-1).max() < 1e-3


def test_interpolation_lies_between_query_and_negative_nearer_the_negative() -> None:
    query, vectors, hardest = sample_one("interpolation", seed=2)
    # On the arc from q to n: the angles to both add up to the angle between them.
    to_query = torch.acos((vectors * query).sum(-1)).unsqueeze(-1)
    to_negative = torch.acos((vectors @ hardest.mT).clamp(-1, 1))
    between = torch.acos((query @ hardest.mT).clamp(-1, 1))
    excess, which = (to_query + to_negative - between).min(-1)
    assert excess.max() < 1e-3
    assert (to_negative.gather(-1, which.unsqueeze(-1)) <= to_query + 1e-5).all()


def test_extrapolation_starts_at_the_negative_and_lies_beyond_it() -> None:
    _, vectors, hardest = sample_one("extrapolation", seed=3, extrapolation_range=(1.0, 1.0))
    assert torch.cdist(vectors, hardest).amin(-1).max() < 1e-3
    query, vectors, hardest = sample_one("extrapolation", seed=3)
    to_query = torch.acos((vectors * query).sum(-1)).unsqueeze(-1)
    to_negative = torch.acos((vectors @ hardest.mT).clamp(-1, 1))
    between = torch.acos((query @ hardest.mT).clamp(-1, 1))
    assert (to_query - to_negative - between).abs().amin(-1).max() < 1e-3


def test_mixup_lies_on_an_arc_between_two_hard_negatives() -> None:
    _, vectors, hardest = sample_one("mixup", seed=4)
    angle = torch.acos((vectors @ hardest.mT).clamp(-1, 1))
    between = torch.acos((hardest @ hardest.mT).clamp(-1, 1))
    excess = angle.unsqueeze(-1) + angle.unsqueeze(-2) - between.unsqueeze(1)
    assert excess.flatten(2).amin(-1).max() < 2e-3
    _, vectors, hardest = sample_one("mixup", seed=4, mixup_range=(1.0, 1.0))
    assert torch.cdist(vectors, hardest).amin(-1).max() < 1e-3


def test_noise_injection_adds_independent_normal_noise_of_the_given_deviation() -> None:
    # Without normalisation the noise can be read off: the strategy itself, on many vectors.
    query, _, queue = batch_of(4, 256, 9, seed=5)
    negative = queue[:8].expand(4, 8, 256)
    noise = torch.randn(4, 8, 256, generator=generator(6))
    torch.testing.assert_close(
        STRATEGIES["noise_injection"](query.unsqueeze(1), negative, noise, torch.tensor(0.01)) - negative, 0.01 * noise
    )
    # With it: |n + σε| is about √(1 + σ²d), the cosine to n about 1 / √(1 + σ²d), and two draws are independent.
    sigma, dim = 0.05, 256
    module = SyntheticNegatives(num_hard_negatives=1, counts={"noise_injection": 2000}, noise_std=sigma)
    (vectors,) = module.sample(query, queue, generator(7)).values()
    hardest = queue[(query @ queue.T).argmax(1)]
    cosine = torch.einsum("bnd,bd->bn", vectors, hardest)
    assert cosine.mean().item() == pytest.approx(1 / math.sqrt(1 + sigma**2 * dim), abs=2e-3)
    across = vectors / cosine.unsqueeze(-1) - hardest.unsqueeze(1)
    assert across.std().item() == pytest.approx(sigma, rel=0.02)
    overlap = F.cosine_similarity(across[:, 1:], across[:, :-1], dim=-1)
    assert overlap.mean().abs().item() < 4 / math.sqrt(4 * 1999 * dim)
    assert overlap.std().item() == pytest.approx(1 / math.sqrt(dim), rel=0.1)


def test_gradient_and_adversarial_perturbation_follow_autograd_s_gradient_of_the_similarity() -> None:
    query = unit_vectors(6, 1, 20, seed=8)
    negative = unit_vectors(6, 15, 20, seed=9).requires_grad_()
    (gradient,) = torch.autograd.grad((query * negative).sum(), negative)
    unused, step = torch.empty(0), torch.tensor(0.01)
    torch.testing.assert_close(
        gradient_perturbation(query, negative.detach(), unused, step), negative.detach() + 0.01 * gradient
    )
    torch.testing.assert_close(
        adversarial_perturbation(query, negative.detach(), unused, step), negative.detach() + 0.01 * gradient.sign()
    )


def test_perturbed_samples_are_hard_negatives_moved_by_the_step() -> None:
    query, vectors, hardest = sample_one("gradient_perturbation", seed=10)
    assert torch.cdist(vectors, F.normalize(hardest + 0.3 * query, dim=-1)).amin(-1).max() < 1e-3
    query, vectors, hardest = sample_one("adversarial_perturbation", seed=10)
    assert torch.cdist(vectors, F.normalize(hardest + 0.1 * query.sign(), dim=-1)).amin(-1).max() < 1e-3


def test_the_way_of_an_accelerator_is_fused_equals_readable_too(as_on_an_accelerator: None) -> None:
    query, key, queue = batch_of(600, 32, 300, seed=43)
    counts = {"noise_injection": 64, "mixup": 64, "adversarial_perturbation": 64}
    module = SyntheticNegatives(num_hard_negatives=8, counts=counts, noise_std=0.3)
    ours = module.loss(query, key, queue, generator(44))
    assert torch.equal(ours, module.loss(query, key, queue, generator(44)))
    assert ours.item() == pytest.approx(module.readable_loss(query, key, queue, generator(44)).item(), rel=1e-6)


@pytest.mark.parametrize("kinds", EVERY_SELECTION, ids=lambda kinds: kinds[0] if len(kinds) == 1 else "all")
def test_the_loss_equals_a_slow_loop_over_the_sample(kinds: list[str]) -> None:
    query, key, queue = (each.double() for each in batch_of(4, 10, 25, seed=11))
    module = small(kinds, temperature=0.3)
    synthetic = module.sample(query, queue, generator(12))
    expected = 0.0
    for i in range(4):
        negatives = [*queue, *(vector for vectors in synthetic.values() for vector in vectors[i])]
        rest = sum(math.exp(torch.dot(query[i], negative).item() / 0.3) for negative in negatives)
        positive = math.exp(torch.dot(query[i], key[i]).item() / 0.3)
        expected -= math.log(positive / (positive + rest)) / 4
    assert module.loss(query, key, queue, generator(12)).item() == pytest.approx(expected, rel=1e-9)
    assert module.readable_loss(query, key, queue, generator(12)).item() == pytest.approx(expected, rel=1e-9)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("kinds", EVERY_SELECTION, ids=lambda kinds: kinds[0] if len(kinds) == 1 else "all")
def test_fused_equals_readable_at_the_paper_s_settings(kinds: list[str]) -> None:
    query, key, queue = batch_of(37, 256, 4096, seed=13)
    module = SyntheticNegatives(counts=dict.fromkeys(kinds, 128))
    results, states = [], []
    for compute in (module.loss, module.readable_loss):
        source, leaves = generator(14), (query.clone().requires_grad_(), key.clone().requires_grad_())
        loss = compute(*leaves, queue, source)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
        states.append(source.get_state())
    (loss, *gradients), (expected_loss, *expected_gradients) = results
    assert relative(loss, expected_loss) < 1e-6
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        assert relative(gradient, expected) < 1e-5
    assert torch.equal(*states)


@pytest.mark.parametrize(("batch", "dim", "num_negatives"), [(1, 3, 8), (19, 33, 64)])
@pytest.mark.parametrize("length", [1.0, 0.8])
def test_fused_equals_readable_for_other_sizes_and_lengths(
    batch: int, dim: int, num_negatives: int, length: float
) -> None:
    query, key, queue = (length * each.double() for each in batch_of(batch, dim, num_negatives, seed=15))
    module = small(temperature=0.1)
    leaf = query.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module.loss(leaf, key, queue, generator(16)), leaf)
    (expected,) = torch.autograd.grad(module.readable_loss(leaf, key, queue, generator(16)), leaf)
    assert relative(gradient, expected) < 1e-9


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fused_equals_readable_where_every_negative_lies_along_the_query(sign: float) -> None:
    query, key, _ = (each.double() for each in batch_of(1, 24, 40, seed=41))
    queue = sign * query.expand(40, 24)
    module = small(temperature=0.1)
    loss, expected = (each(query, key, queue, generator(42)) for each in (module.loss, module.readable_loss))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-7)


def test_all_counts_zero_is_info_nce_and_draws_nothing() -> None:
    query, key, queue = batch_of(9, 16, 5, seed=17)
    module = SyntheticNegatives(counts={}, temperature=0.1)
    source = generator(18)
    before = source.get_state()
    output = module.contrast(query, key, queue, source)
    expected = info_nce(query, key, queue, 0.1)
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(output.accuracy, expected.accuracy)
    assert torch.equal(source.get_state(), before)
    assert module.num_synthetic == 0


def test_accuracy_asks_the_positive_to_beat_synthetic_negatives_too() -> None:
    query, key, queue = batch_of(200, 8, 20, seed=19)
    module = small()
    synthetic = torch.cat(list(module.sample(query, queue, generator(20)).values()), dim=1)
    positive = (query * key).sum(1)
    real_wins = positive > (query @ queue.T).amax(1)
    all_wins = real_wins & (positive > torch.einsum("bd,bnd->bn", query, synthetic).amax(1))
    assert 0 < all_wins.sum() < real_wins.sum()
    assert module.contrast(query, key, queue, generator(20)).accuracy.item() == pytest.approx(
        all_wins.float().mean().item()
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_generator_state_gives_the_same_bits(threads: int) -> None:
    query, key, queue = batch_of(64, 64, 512, seed=21)
    results, previous = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed in (22, 22, 23):
            leaf = query.clone().requires_grad_()
            loss = SyntheticNegatives()(leaf, key, queue, generator(seed))
            results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    finally:
        torch.set_num_threads(previous)
    first, second, third = results
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], third[0])


def test_without_a_generator_the_global_one_decides_and_with_one_it_is_left_alone() -> None:
    query, key, queue = batch_of(4, 16, 300, seed=24)
    module = SyntheticNegatives()
    with torch.random.fork_rng():
        torch.manual_seed(25)
        loss = module.loss(query, key, queue)
        before = torch.get_rng_state()
        assert torch.equal(module.loss(query, key, queue, generator(25)), loss)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_also_under_autocast(dtype: torch.dtype) -> None:
    query, key, queue = (each.to(dtype) for each in batch_of(8, 64, 300, seed=26))
    module, leaf = SyntheticNegatives(), query.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module.loss(leaf, key, queue, generator(27))
        readable = module.readable_loss(query, key, queue, generator(27))
        vectors = module.sample(query, queue, generator(27))["mixup"]
    assert torch.equal(loss.detach(), module.loss(query.float(), key.float(), queue.float(), generator(27)))
    assert loss.item() == pytest.approx(readable.item(), rel=1e-6)
    assert vectors.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert gradient.dtype == dtype
    full = query.float().requires_grad_()
    (expected,) = torch.autograd.grad(module.readable_loss(full, key.float(), queue.float(), generator(27)), full)
    torch.testing.assert_close(gradient, expected.to(dtype), rtol=2e-2, atol=1e-6)


def test_torch_func_gives_the_gradient_of_autograd(as_on_an_accelerator: None) -> None:
    query, key, queue = batch_of(6, 16, 300, seed=45)
    module, leaf = SyntheticNegatives(), query.clone().requires_grad_()
    (expected,) = torch.autograd.grad(module.loss(leaf, key, queue, generator(46)), leaf)
    gradient = torch.func.grad(lambda each: module.loss(each, key, queue, generator(46)))(query)
    torch.testing.assert_close(gradient, expected)


def test_another_default_device_and_type_change_nothing() -> None:
    query, key, queue = batch_of(6, 16, 300, seed=47)
    expected = SyntheticNegatives().loss(query, key, queue, generator(48))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            loss = SyntheticNegatives().loss(query, key, queue, torch.Generator("cpu").manual_seed(48))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(loss, expected)


def test_queue_and_detached_key_get_no_gradient() -> None:
    query, key, queue = batch_of(4, 16, 300, seed=28)
    leaf, queue = query.requires_grad_(), queue.requires_grad_()
    SyntheticNegatives().loss(leaf, key, queue, generator(29)).backward()
    assert leaf.grad is not None
    assert queue.grad is None
    with torch.no_grad():
        assert not SyntheticNegatives().loss(leaf, key, queue).requires_grad


def test_settings_come_as_a_config_or_one_by_one() -> None:
    module = SyntheticNegatives(SyntheticNegatives(temperature=0.1).config, noise_std=0.1)
    assert (module.config.temperature, module.config.noise_std, module.config.num_hard_negatives) == (0.1, 0.1, 256)
    assert "noise_std=0.1" in str(module)
    assert not list(module.state_dict())
    with pytest.raises(TypeError, match=r"noise_sdt is no setting of SyntheticNegatives.*'noise_std'"):
        SyntheticNegatives(noise_sdt=0.1)
    with pytest.raises(ValueError, match=r"unknown kind 'mix_up'.*Did you mean 'mixup'"):
        SyntheticNegatives(counts={"mix_up": 3})
    with pytest.raises(ValueError, match="temperature=0 must be positive"):
        SyntheticNegatives(temperature=0)


def test_counts_have_the_names_of_the_command_line_too() -> None:
    paper = SyntheticNegatives().config.counts
    assert SyntheticNegatives(num_mixup=64).config.counts == {**paper, "mixup": 64}
    module = SyntheticNegatives(counts={"mixup": 3, "interpolation": 5}, num_interpolation=7)
    assert module.config.active_counts == {"interpolation": 7, "mixup": 3}
    with pytest.raises(TypeError, match=r"num_mixups is no setting.*'num_mixup'"):
        SyntheticNegatives(num_mixups=64)
    with pytest.raises(ValueError, match=r"counts\['mixup'\]=-1"):
        SyntheticNegatives(num_mixup=-1)


@pytest.mark.parametrize("method", ["loss", "readable_loss", "contrast", "sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_of_other_lengths_are_named_once(method: str, dtype: torch.dtype, caplog) -> None:
    query, key, queue = (each.to(dtype) for each in batch_of(4, 16, 256, seed=32))

    def call(module: SyntheticNegatives, query: torch.Tensor) -> None:
        getattr(module, method)(*((query, queue) if method == "sample" else (query, key, queue)))

    call(SyntheticNegatives(), query)
    assert not caplog.messages
    module = SyntheticNegatives()
    for _ in range(2):
        call(module, 3 * query)
    said = {text for text in caplog.messages if text.startswith("query")}
    (line,) = said
    assert re.match(
        r"query has vectors of length (2\.9\d|3) to (3|3\.0\d), but .*unit vectors: pass .*normalize", line
    )
    assert [text for text in caplog.messages if text.startswith("query")] == [line]


@pytest.mark.parametrize("method", ["loss", "readable_loss", "contrast", "sample"])
def test_a_queue_smaller_than_the_hard_negatives_is_refused(method: str) -> None:
    query, key, queue = batch_of(4, 16, 255, seed=32)
    arguments = (query, queue) if method == "sample" else (query, key, queue)
    with pytest.raises(ValueError, match="num_hard_negatives=256 exceeds the queue's 255 vectors; lower"):
        getattr(SyntheticNegatives(), method)(*arguments)


def test_inputs_that_do_not_belong_together_are_refused() -> None:
    query, key, queue = batch_of(4, 16, 300, seed=33)
    with pytest.raises(ValueError, match=r"key has shape \(3, 16\)"):
        SyntheticNegatives().loss(query, key[:3], queue)
    with pytest.raises(ValueError, match=r"queue has shape \(300, 15\)"):
        SyntheticNegatives().sample(query, queue[:, :15])


@pytest.mark.slow
def test_compiles_without_graph_breaks(as_on_an_accelerator: None) -> None:
    query, key, queue = batch_of(5, 16, 300, seed=34)
    module, leaf = SyntheticNegatives(), query.requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(module.loss, backend="aot_eager", fullgraph=True)
    with torch.random.fork_rng():
        torch.manual_seed(35)
        loss = compiled(leaf, key, queue)
    assert loss.item() == pytest.approx(module.loss(query, key, queue, generator(35)).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert torch.isfinite(gradient).all()


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_for_batches_of_any_size(dynamic: bool | None, as_on_an_accelerator: None) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(SyntheticNegatives().loss, backend="aot_eager", dynamic=dynamic)
    for size in (8, 5, 7, 33):
        query, key, queue = batch_of(size, 16, 300, seed=size)
        with torch.random.fork_rng():
            torch.manual_seed(35)
            loss = compiled(query.requires_grad_(), key, queue)
        expected = SyntheticNegatives().loss(query, key, queue, generator(35))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.gpu
def test_fused_equals_readable_on_cuda_without_waiting_for_it() -> None:
    query, key, queue = (each.cuda() for each in batch_of(512, 256, 4096, seed=36))
    module, leaf = SyntheticNegatives(), query.requires_grad_()
    # The first call looks at the vectors' lengths.
    module.loss(query.detach(), key, queue)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = module.loss(leaf, key, queue, torch.Generator("cuda").manual_seed(37))
        (gradient,) = torch.autograd.grad(loss, leaf)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    readable = module.readable_loss(leaf, key, queue, torch.Generator("cuda").manual_seed(37))
    (expected,) = torch.autograd.grad(readable, leaf)
    assert relative(loss.detach(), readable.detach()) < 1e-6
    assert relative(gradient, expected) < 1e-5
    with pytest.raises(ValueError, match="the generator is on cpu but the query on cuda"):
        module.loss(leaf, key, queue, generator(38))
