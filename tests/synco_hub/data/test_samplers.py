"""Orders of epochs and the numbers of a key: the same everywhere, each once, uniform."""

import numpy as np
import pytest
import torch
from scipy import stats

from synco_hub.data.samplers import EpochSampler, derive_random_key, draw_uniforms, mix64, sample_uniforms


def test_the_published_sequence_of_splitmix64() -> None:
    # Outputs of the reference generator for state 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    gamma = 0x9E3779B97F4A7C15
    assert [mix64(1234567 + step * gamma) for step in range(1, 5)] == published
    rows = draw_uniforms(np.array([1234567], dtype=np.uint64), 4)[0]
    assert rows.tolist() == [(value >> 11) / 2**53 for value in published]


def test_mixing_is_one_to_one_and_scatters_neighbours() -> None:
    outputs = [mix64(value) for value in range(4096)]
    assert len(set(outputs)) == 4096
    flipped = [bin(mix64(value) ^ mix64(value ^ 1)).count("1") for value in range(4096)]
    assert 31 < np.mean(flipped) < 33


def test_order_number_and_sign_of_the_parts_matter() -> None:
    keys = {
        derive_random_key(),
        derive_random_key(0),
        derive_random_key(0, 0),
        derive_random_key(0, 1),
        derive_random_key(1, 0),
        derive_random_key(-1, 0),
    }
    assert len(keys) == 6
    assert derive_random_key(3, 5, 7) == derive_random_key(3, 5, 7)
    assert all(0 <= key < 2**64 for key in keys)


def test_neighbouring_samples_draw_independent_uniform_numbers() -> None:
    keys = np.array(
        [derive_random_key(0, epoch, index) for epoch in range(20) for index in range(500)], dtype=np.uint64
    )
    table = draw_uniforms(keys, 3)
    for column in table.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
        assert stats.kstest(np.diff(column) % 1, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(table.T)
    assert np.abs(correlation - np.eye(3)).max() < 0.04


def test_a_longer_row_starts_with_the_shorter_one_and_scalars_agree() -> None:
    keys = np.array([5, 2**64 - 1], dtype=np.uint64)
    long, short = draw_uniforms(keys, 9), draw_uniforms(keys, 4)
    assert np.array_equal(long[:, :4], short)
    assert sample_uniforms(2**64 - 1, 9) == long[1].tolist()
    assert 0 <= long.min() <= long.max() < 1


def test_global_generators_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    sample_uniforms(derive_random_key(1, 2, 3), 50)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    pairs = list(sampler)
    assert {pair[0] for pair in pairs} == {epoch}
    return [index for _, index in pairs]


def test_every_index_once_in_another_order_each_epoch() -> None:
    sampler = EpochSampler(500, seed=1)
    orders = [order(sampler, epoch) for epoch in range(4)]
    assert all(sorted(each) == list(range(500)) for each in orders)
    assert len({tuple(each) for each in orders}) == 4
    assert orders[2] == order(EpochSampler(500, seed=1), 2)
    assert orders[2] != order(EpochSampler(500, seed=2), 2)
    assert len(sampler) == 500
    # Runs of neighbouring seeds share no order, an epoch apart or with both exchanged.
    assert len({tuple(order(EpochSampler(500, seed=seed), epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_places_are_uniform() -> None:
    sampler = EpochSampler(20)
    first = [order(sampler, epoch)[0] for epoch in range(2000)]
    counts = torch.bincount(torch.tensor(first), minlength=20)
    assert 60 < counts.min() <= counts.max() < 145


def test_without_shuffling() -> None:
    assert order(EpochSampler(5, shuffle=False), 3) == [0, 1, 2, 3, 4]


def test_the_epoch_of_an_iteration_is_fixed_when_it_begins() -> None:
    sampler = EpochSampler(6)
    iterator = iter(sampler)
    begun = [next(iterator)]
    sampler.set_epoch(9)
    assert {epoch for epoch, _ in [*begun, *iterator]} == {0}


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    list(EpochSampler(10))
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_to_sample() -> None:
    with pytest.raises(ValueError, match="0 images"):
        EpochSampler(0)
