"""Batches timed by a clock that runs as the test says: no second passes."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from synco_hub.batch_autotune import autotuned_batch_size, fastest_batch_size, largest_worth_trying


class Device:
    """Takes the time that a law says; out of memory above a size."""

    def __init__(self, seconds: Callable[[int], float], fits: int = 10**9) -> None:
        self.seconds, self.fits = seconds, fits
        self.now, self.ran = 0.0, list[int]()

    def run(self, size: int) -> None:
        self.ran.append(size)
        if size > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.now += self.seconds(size)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize("start_up", [0.0, 1e-4, 1e-3, 0.01, 0.1, 10.0])
def test_the_flat_part_of_a_device_with_a_cost_of_starting_is_found(start_up: float) -> None:
    device = Device(lambda size: start_up + 1e-3 * size)
    choice = fastest_batch_size(device.run, 4096, device.clock)
    assert choice is not None
    limit = 1000.0
    reached = choice.batch_size / device.seconds(choice.batch_size)
    # A doubling from a share f of the limit brings 2 / (1 + f): below 1.05 from 90.5 % on, or there is no larger one.
    assert reached >= 0.9 * limit or choice.batch_size == 4096
    smaller = choice.batch_size // 4  # no larger batch than needed; a half may just miss the 5 %
    if smaller >= 8:
        assert reached >= 1.05 * smaller / device.seconds(smaller)
    assert choice.images_per_second[choice.batch_size] == pytest.approx(reached)


def test_sizes_double_and_stop_two_after_the_last_gain() -> None:
    device = Device(lambda size: 1.0 if size <= 64 else size / 64)
    choice = fastest_batch_size(device.run, 4096, device.clock)
    assert choice is not None
    assert choice.batch_size == 64
    assert list(choice.images_per_second) == [8, 16, 32, 64, 128, 256]
    assert device.ran == [size for size in choice.images_per_second for _ in range(4)]
    assert str(choice).startswith("64, found by autotuning (images/s by batch size: 8: 8, 16: 16, 32: 32, 64: 64")


def test_one_size_without_a_gain_does_not_end_the_search() -> None:
    device = Device(lambda size: 2.5 if size == 16 else 1.0)
    choice = fastest_batch_size(device.run, 128, device.clock)
    assert choice is not None
    assert choice.batch_size == 128


def test_gains_too_small_one_by_one_are_summed() -> None:
    rates = {8: 100.0, 16: 103.0, 32: 106.0, 64: 107.0, 128: 108.0}
    device = Device(lambda size: size / rates.get(size, 108.0))
    choice = fastest_batch_size(device.run, 4096, device.clock)
    assert choice is not None
    assert choice.batch_size == 32


def test_one_slow_pass_of_three_changes_nothing() -> None:
    calls = iter(range(1000))
    device = Device(lambda size: 1.0 + 50.0 * (next(calls) % 4 == 2))
    choice = fastest_batch_size(device.run, 64, device.clock)
    assert choice is not None
    assert choice.images_per_second == {8: 8.0, 16: 16.0, 32: 32.0, 64: 64.0}


def test_the_end_of_memory_ends_the_search() -> None:
    device = Device(lambda size: 1.0, fits=100)
    choice = fastest_batch_size(device.run, 4096, device.clock)
    assert choice is not None
    assert choice.batch_size == 64
    assert list(choice.images_per_second) == [8, 16, 32, 64]
    assert device.ran.count(128) == 1
    nothing = Device(lambda size: 1.0, fits=7)
    with pytest.raises(torch.OutOfMemoryError):
        fastest_batch_size(nothing.run, 4096, nothing.clock)


@pytest.mark.parametrize(
    ("largest", "tried"), [(7, []), (8, [8]), (63, [8, 16, 32]), (10**6, [8 << n for n in range(10)])]
)
def test_no_size_above_the_largest_is_tried(largest: int, tried: list[int]) -> None:
    device = Device(lambda size: 1.0)
    choice = fastest_batch_size(device.run, largest, device.clock)
    assert (list(choice.images_per_second) if choice else []) == tried


def test_data_and_half_of_the_free_memory_bound_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(available=2**30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert largest_worth_trying(3200, 1000, 0, cuda) == 100
    assert largest_worth_trying(10**9, 2**20, 0, cuda) == 512 // 2
    assert largest_worth_trying(10**9, 2**20, 7, cuda) == 512 // 16
    assert largest_worth_trying(10**9, 2**20, 0, cpu) == 512 // 66


def test_the_trial_costs_at_most_a_quarter_of_the_data() -> None:
    for num_images in (256, 1000, 50_000):
        device = Device(lambda size: 1.0)
        fastest_batch_size(device.run, num_images // 32, device.clock)
        assert 0 < sum(device.ran) <= num_images / 4


def test_the_forward_pass_gets_batches_of_the_images_shape() -> None:
    shapes = []
    pixels = torch.randn(3, 5, 6)

    def forward(batch: torch.Tensor) -> None:
        assert torch.equal(batch[-1], pixels)
        shapes.append(tuple(batch.shape))

    assert autotuned_batch_size(forward, pixels, 255, 0, torch.device("cpu")) is None
    choice = autotuned_batch_size(forward, pixels, 520, 0, torch.device("cpu"))
    assert choice is not None
    assert choice.batch_size in {8, 16}
    assert set(shapes) == {(8, 3, 5, 6), (16, 3, 5, 6)}
