"""The module against a loop over recalls that knows VOC 2007, and scikit-learn for the integral."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

pytest.importorskip("evaluate")


@pytest.fixture
def metric(tmp_path):
    from synco_hub.metrics.modules.voc_map_11_point.voc_map_11_point import VocMap11Point

    return VocMap11Point(cache_dir=str(tmp_path))


def eleven_points(scores: np.ndarray, targets: np.ndarray) -> float:
    """Ranks the images that are not difficult, and looks for the best precision at each recall."""
    known = targets >= 0
    order = np.argsort(-scores[known], kind="stable")
    hits = targets[known][order] == 1
    best = []
    for wanted in range(11):
        found = [0.0]
        for count in range(1, len(hits) + 1):
            right = int(hits[:count].sum())
            if 10 * right >= wanted * int(hits.sum()):
                found.append(right / count)
        best.append(max(found))
    return float(np.mean(best))


def test_it_is_the_loop_with_difficult_images_left_out(metric):
    generator = np.random.default_rng(0)
    scores = generator.permutation(240).reshape(60, 4).astype(np.float32) / 240
    targets = generator.choice([-1, 0, 1], (60, 4), p=[0.1, 0.6, 0.3])
    found = metric.compute(predictions=scores.tolist(), references=targets.tolist())
    expected = [eleven_points(scores[:, column], targets[:, column]) for column in range(4)]
    assert found["map_11_point"] == pytest.approx(np.mean(expected))
    integral = [
        average_precision_score(targets[targets[:, c] >= 0, c], scores[targets[:, c] >= 0, c]) for c in range(4)
    ]
    assert found["map_integral"] == pytest.approx(np.mean(integral))


def test_a_perfect_ranking_has_one(metric):
    found = metric.compute(predictions=[[0.9, 0.1], [0.2, 0.8]], references=[[1, 0], [0, 1]])
    assert found == {"map_11_point": 1.0, "map_integral": 1.0}
