"""The draws: the paper's defaults, the laws of what is drawn, and that all of it comes from the generator."""

import math

import pytest
import torch
from scipy import stats

from trainers.settings import SyntheticNegativesConfig
from trainers.synthetic_draws import draw_noise, draw_synthetic, query_chunks

KINDS = [
    "interpolation",
    "extrapolation",
    "mixup",
    "noise_injection",
    "gradient_perturbation",
    "adversarial_perturbation",
]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_defaults_are_the_paper_s() -> None:
    config = SyntheticNegativesConfig()
    assert config.num_hard_negatives == 256
    assert list(config.counts.items()) == [(kind, 128) for kind in KINDS]
    assert config.temperature == 0.2
    assert (config.interpolation_range, config.extrapolation_range, config.mixup_range) == ((0, 0.5), (1, 1.5), (0, 1))
    assert (config.noise_std, config.gradient_step, config.adversarial_step) == (0.01, 0.01, 0.01)


def test_kinds_come_in_the_paper_s_order_without_those_of_count_0() -> None:
    config = SyntheticNegativesConfig(counts={"adversarial_perturbation": 3, "mixup": 0, "interpolation": 2})
    assert list(config.active_counts.items()) == [("interpolation", 2), ("adversarial_perturbation", 3)]
    assert list(draw_synthetic(config, torch.ones(4, 8), generator(0))) == [
        "interpolation",
        "adversarial_perturbation",
    ]


def test_shapes_and_constants() -> None:
    config = SyntheticNegativesConfig(counts=dict(zip(KINDS, range(1, 7), strict=True)), gradient_step=0.3)
    draws = draw_synthetic(config, torch.ones(5, 8), generator(1))
    for count, kind in enumerate(KINDS, start=1):
        assert draws[kind].negative.shape == (5, count)
        assert (draws[kind].partner is not None) == (kind == "mixup")
        assert torch.broadcast_shapes(draws[kind].coefficient.shape, (5, count)) == (5, count)
    assert draws["gradient_perturbation"].coefficient.item() == pytest.approx(0.3)
    assert draws["noise_injection"].coefficient.item() == pytest.approx(0.01)


def test_coefficients_and_choices_follow_their_uniform_laws() -> None:
    draws = draw_synthetic(SyntheticNegativesConfig(num_hard_negatives=40), torch.ones(80, 8), generator(2))
    for kind, low, high in [("interpolation", 0, 0.5), ("extrapolation", 1, 1.5), ("mixup", 0, 1)]:
        drawn = draws[kind].coefficient.flatten().numpy()
        assert stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    partner = draws["mixup"].partner
    assert partner is not None
    for choice in [partner, *(draw.negative for draw in draws.values())]:
        counts = torch.bincount(choice.flatten(), minlength=40)
        assert len(counts) == 40
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    # Drawn with replacement, and n independent of n′.
    assert len(torch.unique(draws["interpolation"].negative[0])) < 128
    assert (partner == draws["mixup"].negative).float().mean().item() == pytest.approx(1 / 40, abs=0.01)


def test_noise_vectors_are_standard_normal_and_independent() -> None:
    noise = torch.cat([each.clone() for each in draw_noise(torch.ones(100, 256), 128, generator(4))])
    assert noise.shape == (100, 128, 256)
    assert stats.kstest(noise.flatten()[::37].numpy(), stats.norm.cdf).pvalue > 1e-3
    standard_error = math.sqrt(1 / (128 * 256))
    chunk = query_chunks(torch.ones(100, 256), 128)[0].stop
    assert 1 < chunk < 100
    for shift_batch, shift_count in [(1, 0), (0, 1), (chunk, 0)]:
        correlation = (noise * noise.roll((shift_batch, shift_count), (0, 1))).mean(dim=(1, 2))
        assert correlation.abs().max().item() < 5 * standard_error


def test_noise_of_another_state_or_call_is_other_noise() -> None:
    query, source = torch.ones(100, 256), generator(8)
    first, second, other = (
        torch.cat([each.clone() for each in draw_noise(query, 128, each_source)])
        for each_source in (source, source, generator(9))
    )
    for a, b in [(first, second), (first, other)]:
        assert ((a * b).mean(dim=(1, 2)).abs() < 5 / math.sqrt(128 * 256)).all()


@pytest.mark.parametrize(("batch", "count", "dim"), [(1, 128, 256), (100, 128, 256), (3, 5000, 256), (50, 1, 8)])
def test_chunks_cover_the_batch_once_and_fit_into_their_memory(batch: int, count: int, dim: int) -> None:
    chunks = query_chunks(torch.ones(batch, dim), count)
    assert [i for chunk in chunks for i in range(batch)[chunk]] == list(range(batch))
    assert all(
        chunk.stop - chunk.start == 1 or (chunk.stop - chunk.start) * count * dim * 4 <= 2**22 for chunk in chunks
    )


def test_everything_comes_from_the_generator() -> None:
    config, query = SyntheticNegativesConfig(), torch.ones(3, 8)
    before = torch.get_rng_state()
    first, second, third = (draw_synthetic(config, query, generator(seed)) for seed in (5, 5, 6))
    next(draw_noise(query, 4, generator(5)))
    assert torch.equal(torch.get_rng_state(), before)
    for kind in KINDS:
        assert torch.equal(first[kind].negative, second[kind].negative)
        assert torch.equal(first[kind].coefficient, second[kind].coefficient)
        assert not torch.equal(first[kind].negative, third[kind].negative)


def test_without_a_generator_the_global_one_is_used() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        first = draw_synthetic(SyntheticNegativesConfig(), torch.ones(3, 8))
    second = draw_synthetic(SyntheticNegativesConfig(), torch.ones(3, 8), generator(7))
    assert torch.equal(first["mixup"].negative, second["mixup"].negative)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"num_hard_negatives": 0}, "num_hard_negatives=0 must be at least 1"),
        ({"counts": {"mixup": -1}}, r"counts\['mixup'\]=-1 must be a whole number from 0 up"),
        ({"counts": {"mixup": 1.5}}, r"counts\['mixup'\]=1.5 must be a whole number"),
        ({"counts": {"mix_up": 1}}, "unknown kind 'mix_up'; the kinds are interpolation, extrapolation, mixup"),
        ({"interpolation_range": (0.5, 0.0)}, r"interpolation_range=\(0.5, 0.0\) must be finite and in order"),
        ({"extrapolation_range": (1.0, math.inf)}, "extrapolation_range=.* must be finite"),
        ({"mixup_range": (math.nan, 1.0)}, "mixup_range=.* must be finite"),
        ({"noise_std": -0.01}, "noise_std=-0.01 must be finite and not negative"),
        ({"gradient_step": math.inf}, "gradient_step=inf must be finite"),
        ({"adversarial_step": -1.0}, "adversarial_step=-1.0 must be finite and not negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticNegativesConfig(**settings)  # type: ignore[arg-type]
