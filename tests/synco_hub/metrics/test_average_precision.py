"""Operating points against a loop over thresholds; average precision against scikit-learn and its definition."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from synco_hub.metrics import average_precision, operating_points, voc_average_precision_11_point


def test_counts_equal_a_loop_over_thresholds():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(6, (50,), generator=generator).float()
    targets = torch.randint(-1, 2, (50,), generator=generator)
    found, false = operating_points(scores, targets)
    for position, threshold in enumerate(sorted(set(scores[targets != -1].tolist()), reverse=True)):
        called = scores >= threshold
        assert found[position] == (called & (targets == 1)).sum()
        assert false[position] == (called & (targets == 0)).sum()
    assert len(found) == position + 1


def draw(seed, ties, count=80):
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, generator=generator) < 0.3).long()
    targets[0] = 1
    scores = torch.randn(count, generator=generator) + targets
    return (scores * 2).round() if ties else scores, targets


def eleven_points_by_hand(scores, targets):
    """The definition, threshold by threshold."""
    points = []
    for threshold in np.unique(scores):
        called = scores >= threshold
        found = (called & (targets == 1)).sum()
        points.append((found / (targets == 1).sum(), found / called.sum()))
    best = [max((p for r, p in points if r >= step / 10 - 1e-12), default=0) for step in range(11)]
    return np.mean(best)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_integral_agrees_with_scikit_learn(seed, ties):
    scores, targets = draw(seed, ties)
    expected = average_precision_score(targets.numpy(), scores.numpy())
    assert average_precision(scores, targets) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_eleven_points_agree_with_their_definition(seed, ties):
    scores, targets = draw(seed, ties)
    expected = eleven_points_by_hand(scores.numpy(), targets.numpy())
    assert voc_average_precision_11_point(scores, targets) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [average_precision, voc_average_precision_11_point])
def test_difficult_images_do_not_count_and_classes_are_averaged(metric):
    (first, labels), (second, others) = draw(1, False), draw(2, False)
    difficult = torch.rand(80, generator=torch.Generator().manual_seed(3)) < 0.2
    scores, targets = torch.stack([first, second], 1), torch.stack([labels, others], 1)
    targets[difficult, 0] = -1
    expected = (metric(first[~difficult], labels[~difficult]) + metric(second, others)) / 2
    assert metric(scores, targets) == pytest.approx(expected, abs=1e-12)


def test_perfect_and_missing():
    targets = torch.tensor([1, 1, 0, 0])
    assert voc_average_precision_11_point(torch.tensor([4.0, 3, 2, 1]), targets) == 1.0
    # Both positives behind both negatives: precision 1/3 then 2/4, so 0.5 at every recall.
    assert voc_average_precision_11_point(torch.tensor([1.0, 2, 3, 4]), targets) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (torch.tensor([1.0, float("nan")]), torch.tensor([1, 0]), "1 of 2 scores are NaN, first at index 1"),
        (torch.zeros(3), torch.tensor([0, 0, -1]), "none of 2 targets is positive"),
        (torch.zeros(3), torch.tensor([0, 2, 1]), "other numbers"),
        (torch.zeros(3, 2), torch.zeros(3), "do not fit"),
        (torch.zeros(3, 2), torch.zeros(3, 2), "none of 2 classes"),
    ],
)
def test_bad_input(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        average_precision(scores, targets)
