"""Against pixel loops, numpy's linspace, and masks whose J is known."""

import itertools

import numpy as np
import pytest
import torch

from synco_hub.metrics import region_similarity, sequence_statistics


def by_hand(mask, target, void):
    inside = either = 0
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            if not void[row, column]:
                inside += bool(mask[row, column] and target[row, column])
                either += bool(mask[row, column] or target[row, column])
    return 1.0 if either == 0 else inside / either


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_agrees_with_a_loop_over_pixels(share):
    generator = torch.Generator().manual_seed(int(100 * share))
    masks, targets, void = (torch.rand(2, 3, 9, 7, generator=generator) < s for s in (share, share, 0.2))
    found = region_similarity(masks, targets, void)
    for index in np.ndindex(2, 3):
        assert float(found[index]) == by_hand(masks[index], targets[index], void[index])


def test_absent_objects():
    empty, full = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    assert region_similarity(empty, empty) == 1.0
    assert region_similarity(full, empty) == region_similarity(empty, full) == 0.0
    assert region_similarity(full, empty, void=full) == 1.0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 24, 67, 102, 300])
def test_statistics_are_those_of_the_definition(count):
    values = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    cuts = (np.round(np.linspace(1, count, 5) + 1e-10) - 1).astype(int)
    quarters = [values.numpy()[first : last + 1] for first, last in itertools.pairwise(cuts)]
    found = sequence_statistics(values)
    assert found.mean == pytest.approx(values.numpy().mean())
    assert found.recall == pytest.approx((values.numpy() > 0.5).mean())
    assert found.decay == pytest.approx(quarters[0].mean() - quarters[-1].mean())


def test_half_is_no_recall_and_bad_input_is_refused():
    assert sequence_statistics(torch.tensor([0.5, 1.0])).recall == 0.5
    with pytest.raises(ValueError, match="not empty"):
        sequence_statistics(torch.zeros(0))
    with pytest.raises(ValueError, match="do not fit"):
        region_similarity(torch.zeros(2, 2, dtype=torch.bool), torch.zeros(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="boolean"):
        region_similarity(torch.zeros(2, 2), torch.zeros(2, 2))
