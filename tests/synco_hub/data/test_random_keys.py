import numpy as np
import torch
from scipy import stats

from synco_hub.data.random_keys import mix64, random_key, sample_uniforms, uniforms


def test_the_published_sequence_of_splitmix64() -> None:
    # Outputs of the reference generator for state 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    gamma = 0x9E3779B97F4A7C15
    assert [mix64(1234567 + step * gamma) for step in range(1, 5)] == published
    rows = uniforms(np.array([1234567], dtype=np.uint64), 4)[0]
    assert rows.tolist() == [(value >> 11) / 2**53 for value in published]


def test_mixing_is_one_to_one_and_scatters_neighbours() -> None:
    outputs = [mix64(value) for value in range(4096)]
    assert len(set(outputs)) == 4096
    flipped = [bin(mix64(value) ^ mix64(value ^ 1)).count("1") for value in range(4096)]
    assert 31 < np.mean(flipped) < 33


def test_order_number_and_sign_of_the_parts_matter() -> None:
    keys = {random_key(), random_key(0), random_key(0, 0), random_key(0, 1), random_key(1, 0), random_key(-1, 0)}
    assert len(keys) == 6
    assert random_key(3, 5, 7) == random_key(3, 5, 7)
    assert all(0 <= key < 2**64 for key in keys)


def test_neighbouring_samples_draw_independent_uniform_numbers() -> None:
    keys = np.array([random_key(0, epoch, index) for epoch in range(20) for index in range(500)], dtype=np.uint64)
    table = uniforms(keys, 3)
    for column in table.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
        assert stats.kstest(np.diff(column) % 1, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(table.T)
    assert np.abs(correlation - np.eye(3)).max() < 0.04


def test_a_longer_row_starts_with_the_shorter_one_and_scalars_agree() -> None:
    keys = np.array([5, 2**64 - 1], dtype=np.uint64)
    long, short = uniforms(keys, 9), uniforms(keys, 4)
    assert np.array_equal(long[:, :4], short)
    assert sample_uniforms(2**64 - 1, 9) == long[1].tolist()
    assert 0 <= long.min() <= long.max() < 1


def test_global_generators_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    sample_uniforms(random_key(1, 2, 3), 50)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
