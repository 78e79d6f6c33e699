"""The module against scikit-learn, batch by batch, and ties by hand."""

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

pytest.importorskip("evaluate")


@pytest.fixture
def metric(tmp_path):
    from synco_hub.metrics.modules.top_k_accuracy.top_k_accuracy import TopKAccuracy

    return TopKAccuracy(cache_dir=str(tmp_path))


@pytest.mark.parametrize("k", [1, 3])
def test_it_is_the_accuracy_of_scikit_learn(metric, k):
    generator = np.random.default_rng(k)
    scores, labels = generator.normal(size=(60, 7)).astype(np.float32), generator.integers(0, 7, 60)
    for part in np.split(np.arange(60), 4):  # what is added in parts counts as a whole
        metric.add_batch(predictions=scores[part].tolist(), references=labels[part].tolist())
    expected = top_k_accuracy_score(labels, scores, k=k, labels=range(7))
    assert metric.compute(k=k) == {f"top{k}_accuracy": pytest.approx(expected)}


def test_ties_go_to_the_lower_class(metric):
    assert metric.compute(predictions=[[1.0, 1.0], [1.0, 1.0]], references=[0, 1]) == {"top1_accuracy": 0.5}
