import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from synco_hub.metrics import area_under_roc, fpr_at_recall


def draw(seed, ties=False, count=200):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(2, (count,), generator=generator)
    scores = torch.randn(count, generator=generator) + targets
    return (scores * 3).round() if ties else scores, targets


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_area_agrees_with_scikit_learn(seed, ties):
    scores, targets = draw(seed, ties)
    expected = roc_auc_score(targets.numpy(), scores.numpy())
    assert area_under_roc(scores, targets) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("recall", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_rate_at_recall_agrees_with_a_search_over_thresholds(ties, recall):
    for seed in range(5):
        scores, targets = (part.numpy() for part in draw(seed, ties))
        best, reached = None, 0.0
        for threshold in np.unique(scores)[::-1]:
            called = scores >= threshold
            distance = abs((called & (targets == 1)).sum() / targets.sum() - recall)
            if best is None or distance < best[0] or (distance == best[0] and reached < 1):
                best = (distance, (called & (targets == 0)).sum() / (targets == 0).sum())
            reached = (called & (targets == 1)).sum() / targets.sum()
        assert fpr_at_recall(torch.tensor(scores), torch.tensor(targets), recall) == pytest.approx(best[1])


@pytest.mark.parametrize("positives", [1, 7, 10, 20, 30, 50, 70, 90])
def test_rate_is_that_of_the_published_rule_where_two_recalls_are_equally_near(positives):
    """The first smallest |recall - 0.95| in double precision, from full recall downwards."""
    generator = np.random.default_rng(positives)
    for _ in range(10):
        targets = np.array([1] * positives + [0] * 40)
        scores = generator.integers(0, 3 * positives, len(targets)).astype(float)
        thresholds = np.unique(scores)
        recalls = np.array([(scores[targets == 1] >= each).mean() for each in thresholds])
        rates = np.array([(scores[targets == 0] >= each).mean() for each in thresholds])
        reachable = np.flatnonzero(recalls == 1)[-1]  # thresholds below only add false positives
        expected = rates[reachable + np.abs(recalls[reachable:] - 0.95).argmin()]
        assert fpr_at_recall(torch.tensor(scores), torch.tensor(targets)) == pytest.approx(expected, abs=1e-12)


def test_recalls_exactly_around_the_wanted_one_fall_as_the_published_code_rounds_them():
    scores, targets = torch.tensor([*range(11, 2, -1), 1, 1, 0]), torch.tensor([1] * 9 + [0, 1, 0])
    # Recall 0.9 without, 1.0 with the negative that ties with the last positive; 1.0 - 0.95 is rounded to the farther.
    assert fpr_at_recall(scores, targets) == 0.0
    # Three quarters are representable: a true tie, which the lower threshold wins.
    scores, targets = torch.tensor([3, 2, 1, 0]), torch.tensor([1, 0, 1, 0])
    assert fpr_at_recall(scores, targets, 0.75) == 0.5


def test_limits():
    targets = torch.tensor([1] * 20 + [0] * 20)
    apart = torch.arange(40).flip(0).float()
    assert area_under_roc(apart, targets) == 1.0
    assert fpr_at_recall(apart, targets) == 0.0
    assert fpr_at_recall(-apart, targets) == 1.0
    # Constant scores leave one threshold, which calls everything positive.
    assert fpr_at_recall(torch.zeros(40), targets) == 1.0
    assert area_under_roc(torch.zeros(40), targets) == 0.5


def test_bad_input():
    with pytest.raises(ValueError, match="none of 2 targets is negative"):
        area_under_roc(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="recall=0"):
        fpr_at_recall(torch.zeros(2), torch.tensor([0, 1]), 0)
