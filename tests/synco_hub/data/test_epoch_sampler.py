import pytest
import torch

from synco_hub.data.epoch_sampler import EpochSampler


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
