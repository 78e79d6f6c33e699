"""The module against scikit-learn, and classes of very different size."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

pytest.importorskip("evaluate")


@pytest.fixture
def metric(tmp_path):
    from synco_hub.metrics.modules.mean_per_class_accuracy.mean_per_class_accuracy import MeanPerClassAccuracy

    return MeanPerClassAccuracy(cache_dir=str(tmp_path))


def test_it_is_the_balanced_accuracy_of_scikit_learn(metric):
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(80, 5)).astype(np.float32)
    labels = generator.choice(5, 80, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    expected = balanced_accuracy_score(labels, scores.argmax(axis=1))
    found = metric.compute(predictions=scores.tolist(), references=labels.tolist())
    assert found == {"mean_per_class_accuracy": pytest.approx(expected)}


def test_a_rare_class_weighs_as_much_as_a_frequent_one(metric):
    found = metric.compute(predictions=[[1.0, 0.0]] * 100, references=[0] * 99 + [1])
    assert found == {"mean_per_class_accuracy": 0.5}
