"""Against a loop over the definition: walk down the ranking, collect trapezoids."""

import numpy as np
import pytest
import torch

from synco_hub.metrics import revisited_average_precision, revisited_precision_at_k


def draw(seed, count=60, ties=False):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, generator=generator)
    targets = torch.randint(-1, 2, (count,), generator=generator)
    targets[int(torch.randint(count, (1,), generator=generator))] = 1
    return (scores.round() if ties else scores), targets


def walk(scores, targets):
    """Precision after each kept image, and where positives stand, by plain Python."""
    order = sorted(range(len(scores)), key=lambda index: (-float(scores[index]), index))
    return [int(targets[index]) for index in order if targets[index] != -1]


def average_precision_by_hand(scores, targets):
    kept = walk(scores, targets)
    positives = kept.count(1)
    area, found, precision = 0.0, 0, 1.0
    for seen, label in enumerate(kept, start=1):
        # The precision before an image is that of the ranking without it; before the first one it is 1.
        if label == 1:
            before = precision
            found += 1
            area += (before + found / seen) / 2 / positives
        precision = found / seen
    return area


def precision_by_hand(scores, targets, k):
    kept = walk(scores, targets)
    last = max(place for place, label in enumerate(kept, start=1) if label == 1)
    k = min(k, last)
    return kept[:k].count(1) / k


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_a_walk_down_the_ranking(seed, ties):
    scores, targets = draw(seed, ties=ties)
    expected = average_precision_by_hand(scores, targets)
    assert revisited_average_precision(scores, targets) == pytest.approx(expected, abs=1e-12)
    for k in (1, 5, 10, 100):
        assert revisited_precision_at_k(scores, targets, k) == pytest.approx(precision_by_hand(scores, targets, k))


def test_known_values():
    scores = torch.tensor([5.0, 4, 3, 2, 1])
    assert revisited_average_precision(scores, torch.tensor([1, 1, 0, 0, 0])) == 1.0
    # Ranks 2 and 3 of 5: (0 + 1/2)/2 and (1/2 + 2/3)/2, each half of the recall.
    assert revisited_average_precision(scores, torch.tensor([0, 1, 1, 0, 0])) == pytest.approx((0.25 + 7 / 12) / 2)
    # Junk before them moves nothing.
    assert revisited_average_precision(scores, torch.tensor([-1, 1, 1, -1, 0])) == 1.0
    # One positive at rank 2 of k = 10: two images are looked at.
    assert revisited_precision_at_k(scores, torch.tensor([0, 1, 0, 0, 0]), 10) == 0.5


def test_degenerate_rankings():
    tied = torch.zeros(4)
    assert revisited_average_precision(tied, torch.tensor([1, 0, 0, 1])) == pytest.approx(
        average_precision_by_hand(tied, torch.tensor([1, 0, 0, 1]))
    )
    assert revisited_average_precision(tied, torch.ones(4, dtype=torch.int8)) == 1.0
    assert revisited_average_precision(tied[:1], torch.tensor([1])) == 1.0


def test_queries_without_positives_are_skipped():
    (first, ours), (second, theirs) = draw(1), draw(2)
    scores = torch.stack([first, second, first])
    targets = torch.stack([ours, theirs, torch.where(ours == 1, 0, ours)])
    expected = np.mean([average_precision_by_hand(first, ours), average_precision_by_hand(second, theirs)])
    assert revisited_average_precision(scores, targets) == pytest.approx(expected)
    at_5 = np.mean([precision_by_hand(first, ours, 5), precision_by_hand(second, theirs, 5)])
    assert revisited_precision_at_k(scores, targets, 5) == pytest.approx(at_5)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (torch.tensor([1.0, float("nan")]), torch.tensor([1, 0]), "1 of 2 scores are NaN, first at image 1"),
        (torch.zeros(3), torch.tensor([0, 0, -1]), "none of 1 queries"),
        (torch.zeros(3), torch.tensor([0, 2, 1]), "other numbers"),
        (torch.zeros(3, 2), torch.zeros(3), "do not fit"),
    ],
)
def test_bad_input(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        revisited_average_precision(scores, targets)
    with pytest.raises(ValueError, match="k=0"):
        revisited_precision_at_k(scores, targets, 0)
