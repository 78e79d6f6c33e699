"""The module against scikit-learn, and a detector that is perfect or blind."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

pytest.importorskip("evaluate")


@pytest.fixture
def metric(tmp_path):
    from synco_hub.metrics.modules.out_of_distribution.out_of_distribution import OutOfDistribution

    return OutOfDistribution(cache_dir=str(tmp_path))


@pytest.mark.parametrize("recall", [0.95, 0.5])
def test_it_is_what_scikit_learn_says(metric, recall):
    generator = np.random.default_rng(int(100 * recall))
    labels = generator.integers(0, 2, 200)
    scores = (generator.normal(size=200) + labels).astype(np.float32)
    found = metric.compute(predictions=scores.tolist(), references=labels.tolist(), recall=recall)
    false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
    # The threshold whose recall is nearest, the lower one of equals.
    distance = np.abs(true_positive[: int((true_positive < 1).sum()) + 1] - recall)
    nearest = np.flatnonzero(np.isclose(distance, distance.min()))[-1]
    assert found == {
        f"fpr{round(100 * recall)}": pytest.approx(false_positive[nearest]),
        "auroc": pytest.approx(roc_auc_score(labels, scores)),
        "aupr": pytest.approx(average_precision_score(labels, scores)),
    }


def test_limits(metric):
    perfect = metric.compute(predictions=[0.1, 0.2, 0.8, 0.9], references=[0, 0, 1, 1])
    assert perfect == {"fpr95": 0.0, "auroc": 1.0, "aupr": 1.0}
    blind = metric.compute(predictions=[0.5] * 4, references=[0, 0, 1, 1])
    assert blind == {"fpr95": 1.0, "auroc": 0.5, "aupr": 0.5}
