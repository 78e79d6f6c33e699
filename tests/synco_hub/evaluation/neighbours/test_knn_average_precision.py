import math

import numpy as np
import pytest
import torch

from synco_hub.evaluation.neighbours.knn_average_precision import knn_average_precision


def planted(seed: int, bank: int = 60, queries: int = 25, classes: int = 4):
    rng = np.random.default_rng(seed)
    sides = []
    for count in (bank, queries):
        features = rng.normal(size=(count, 6)).astype(np.float32)
        targets = rng.choice([1, 0, -1], size=(count, classes), p=[0.35, 0.5, 0.15]).astype(np.float32)
        features[:, :classes] += 1.5 * (targets == 1)
        sides += [torch.tensor(features), torch.tensor(targets)]
    return sides


def by_hand(bank, bank_targets, queries, query_targets, k, temperature):
    """Loops over queries, neighbours and classes; the devkit's eleven points and scikit-learn's sum."""
    from sklearn.metrics import average_precision_score

    bank, queries = (side / side.norm(dim=1, keepdim=True) for side in (bank.double(), queries.double()))
    scores = torch.zeros(query_targets.shape, dtype=torch.float64)
    for row, query in enumerate(queries):
        similarities = bank @ query
        nearest = sorted(range(len(bank)), key=lambda index: -float(similarities[index]))[:k]
        for column in range(query_targets.shape[1]):
            counting = [index for index in nearest if bank_targets[index, column] >= 0]
            weights = {index: math.exp(float(similarities[index]) / temperature) for index in counting}
            there = sum(weight for index, weight in weights.items() if bank_targets[index, column] == 1)
            scores[row, column] = there / sum(weights.values()) if weights else 0.0
    eleven, integral = [], []
    for column in range(query_targets.shape[1]):
        kept = query_targets[:, column] >= 0
        target, score = query_targets[kept, column].numpy(), scores[kept, column].numpy()
        integral.append(average_precision_score(target, score))
        points = []
        for threshold in sorted(set(score), reverse=True):
            found = target[score >= threshold]
            points.append((found.sum() / target.sum(), found.mean()))
        eleven.append(
            np.mean([max((p for r, p in points if r >= step / 10 - 1e-12), default=0.0) for step in range(11)])
        )
    return 100 * np.mean(eleven), 100 * np.mean(integral)


@pytest.mark.parametrize("seed", range(4))
def test_against_loops_and_scikit_learn(seed: int):
    sides = planted(seed)
    found = knn_average_precision(*sides, ks=[3, 17, 60], temperature=0.3)
    for k in (3, 17, 60):
        eleven, integral = by_hand(*sides, k, 0.3)
        assert found[f"map_11_point_k{k}"] == pytest.approx(eleven, abs=1e-4)
        assert found[f"map_integral_k{k}"] == pytest.approx(integral, abs=1e-4)


def test_difficult_cells_change_nothing():
    bank, bank_targets, queries, query_targets = planted(9)
    found = knn_average_precision(bank, bank_targets, queries, query_targets, [5])
    column = query_targets[:, 0] == -1
    assert column.any()
    # The images that do not count for a class may have any features, as far as that class is concerned.
    one = knn_average_precision(bank, bank_targets[:, :1], queries, query_targets[:, :1], [5])
    kept = knn_average_precision(bank, bank_targets[:, :1], queries[~column], query_targets[~column, :1], [5])
    assert one == kept
    assert found != one


def test_bad_input():
    bank, bank_targets, queries, query_targets = planted(1)
    with pytest.raises(ValueError, match="do not fit"):
        knn_average_precision(bank, bank_targets, queries, query_targets[:, :2], [5])
    with pytest.raises(ValueError, match="choose each from 1"):
        knn_average_precision(bank, bank_targets, queries, query_targets, [61])
    with pytest.raises(ValueError, match="temperature"):
        knn_average_precision(bank, bank_targets, queries, query_targets, [5], temperature=0)
    with pytest.raises(ValueError, match="do not fit"):
        knn_average_precision(bank[:0], bank_targets[:0], queries, query_targets, [1])
    bank[3, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN|finite"):
        knn_average_precision(bank, bank_targets, queries, query_targets, [5])
