"""The module against a vote counted by hand in numpy."""

import math

import numpy as np
import pytest

pytest.importorskip("evaluate")


@pytest.fixture
def metric(tmp_path):
    from synco_hub.metrics.modules.weighted_knn_accuracy.weighted_knn_accuracy import WeightedKnnAccuracy

    return WeightedKnnAccuracy(cache_dir=str(tmp_path))


def voted(similarities: np.ndarray, labels: np.ndarray, num_classes: int, k: int, temperature: float) -> int:
    votes = [0.0] * num_classes
    for similarity, label in list(zip(similarities, labels, strict=True))[:k]:
        votes[label] += math.exp(similarity / temperature)
    return votes.index(max(votes))


@pytest.mark.parametrize(("k", "temperature"), [(None, 0.07), (5, 0.07), (20, 1.0)])
def test_it_is_the_vote_counted_by_hand(metric, k, temperature):
    generator = np.random.default_rng(0)
    similarities = -np.sort(-generator.uniform(-1, 1, (40, 20)).astype(np.float32), axis=1)
    neighbours, labels = generator.integers(0, 3, (40, 20)), generator.integers(0, 3, 40)
    rows = zip(similarities.astype(float), neighbours, strict=True)
    expected = np.mean([voted(*row, 3, k or 20, temperature) for row in rows] == labels)
    found = metric.compute(
        predictions=similarities.tolist(),
        neighbour_labels=neighbours.tolist(),
        references=labels.tolist(),
        num_classes=3,
        k=k,
        temperature=temperature,
    )
    assert found == {"weighted_knn_accuracy": pytest.approx(expected)}


def test_a_near_neighbour_outvotes_two_far_ones(metric):
    near = {"predictions": [[1.0, 0.5, 0.5]], "neighbour_labels": [[1, 0, 0]], "references": [1], "num_classes": 2}
    assert metric.compute(**near) == {"weighted_knn_accuracy": 1.0}
    assert metric.compute(**near, temperature=10.0) == {"weighted_knn_accuracy": 0.0}
