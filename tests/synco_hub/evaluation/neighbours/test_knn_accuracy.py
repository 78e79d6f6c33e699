"""Accuracy against a brute-force vote in numpy, ties included, and against scikit-learn."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from synco_hub.evaluation import knn_accuracy
from synco_hub.evaluation.neighbours.knn_accuracy import check_temperature


def brute_force(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    ks: Sequence[int],
    classes: int,
    temperature: float,
) -> dict[str, float]:
    """Every similarity sorted stably, every vote counted one by one, classes ranked by vote and then by index."""
    bank_array = (bank / bank.norm(dim=1, keepdim=True)).numpy()
    query_array = (queries / queries.norm(dim=1, keepdim=True)).numpy()
    accuracies = {}
    for k in ks:
        top1 = top5 = 0
        for query, label in zip(query_array, labels.tolist(), strict=True):
            similarities = bank_array @ query
            nearest = np.argsort(-similarities, kind="stable")[:k]
            votes = np.zeros(classes)
            for index in nearest:
                votes[int(bank_labels[index])] += np.exp(
                    (float(similarities[index]) - similarities.max()) / temperature
                )
            ranking = sorted(range(classes), key=lambda c: (-votes[c], c))
            top1 += ranking[0] == label
            top5 += label in ranking[:5]
        accuracies[f"top1_k{k}"] = 100.0 * top1 / len(labels)
        if classes >= 5:
            accuracies[f"top5_k{k}"] = 100.0 * top5 / len(labels)
    return accuracies


def tied_features(generator: torch.Generator, count: int, dim: int = 8) -> Tensor:
    """Rows of four ±1 among zeros: norm 2, so that all similarities are exact and most are tied."""
    vectors = torch.zeros(count, dim)
    for row in vectors:
        row[torch.randperm(dim, generator=generator)[:4]] = torch.randint(2, (4,), generator=generator) * 2.0 - 1
    return vectors


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (5, 1), (12, 2)])
def test_equals_brute_force_exactly_with_ties_everywhere(classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank, queries = tied_features(generator, 90), tied_features(generator, 60)
    bank_labels = torch.randint(classes, (90,), generator=generator)
    labels = torch.randint(classes, (60,), generator=generator)
    arguments = (bank, bank_labels, queries, labels, [1, 3, 10, 90], classes, 0.07)
    assert knn_accuracy(*arguments) == brute_force(*arguments)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_brute_force_on_clusters(temperature: float) -> None:
    generator = torch.Generator().manual_seed(4)
    centres = torch.randn(7, 20, generator=generator)
    bank_labels, labels = (torch.randint(7, (n,), generator=generator) for n in (200, 80))
    bank = centres[bank_labels] + 1.5 * torch.randn(200, 20, generator=generator)
    queries = centres[labels] + 1.5 * torch.randn(80, 20, generator=generator)
    arguments = (bank, bank_labels, queries, labels, [10, 20, 100], 7, temperature)
    measured = knn_accuracy(*arguments)
    assert measured == brute_force(*arguments)
    assert 30 < measured["top1_k20"] < 99.9


@pytest.mark.parametrize("k", [5, 20])
def test_equals_scikit_learn_with_the_same_weights(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    bank_labels, labels = (torch.randint(6, (n,), generator=generator) for n in (300, 150))
    centres = torch.randn(6, 16, generator=generator)
    bank = centres[bank_labels] + 1.5 * torch.randn(300, 16, generator=generator)
    queries = centres[labels] + 1.5 * torch.randn(150, 16, generator=generator)
    classifier = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.07)
    ).fit(bank.numpy(), bank_labels.numpy())
    expected = 100 * classifier.score(queries.numpy(), labels.numpy())
    assert knn_accuracy(bank, bank_labels, queries, labels, [k], 6)[f"top1_k{k}"] == pytest.approx(expected, abs=1e-9)


def test_the_bank_finds_itself() -> None:
    bank = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 10
    assert knn_accuracy(bank, labels, 3 * bank, labels, [1], 10) == {"top1_k1": 100.0, "top5_k1": 100.0}


def test_fewer_than_five_classes_have_no_top_5() -> None:
    bank, labels = torch.eye(4), torch.arange(4)
    assert list(knn_accuracy(bank, labels, bank, labels, [2, 1], 4)) == ["top1_k1", "top1_k2"]


def test_a_chance_level_of_features_without_meaning() -> None:
    generator = torch.Generator().manual_seed(9)
    bank, queries = (torch.randn(n, 32, generator=generator) for n in (2000, 2000))
    bank_labels, labels = (torch.randint(10, (2000,), generator=generator) for _ in range(2))
    measured = knn_accuracy(bank, bank_labels, queries, labels, [10], 10)
    assert measured["top1_k10"] == pytest.approx(10, abs=3)
    assert measured["top5_k10"] == pytest.approx(50, abs=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_labels": torch.tensor([0, 5])}, "test image 1 has label 5, one of 1 among 2"),
        ({"bank_labels": torch.tensor([0, -1, 1, -1])}, "2 of 4 training images have no label"),
        ({"bank_labels": torch.tensor([0, -2, 1, 1])}, "training image 1 has label -2"),
        ({"ks": [3, 5]}, "k=5 with 4 training images"),
        ({"ks": [0, 3]}, "k=0 with 4 training images"),
        ({"ks": []}, "names no number"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"query_features": torch.ones(0, 3), "query_labels": torch.ones(0).long()}, "test split is empty"),
        ({"bank_features": torch.ones(0, 3), "bank_labels": torch.ones(0).long()}, "training split is empty"),
        ({"bank_features": torch.ones(4, 2)}, "do not fit"),
        ({"bank_labels": torch.tensor([0, 1])}, "training features"),
        ({"query_features": torch.tensor([[1, 2, 3], [1, torch.nan, 2]])}, "1 of 2 images are NaN .* index 1"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    arguments = {
        "bank_features": torch.ones(4, 3),
        "bank_labels": torch.tensor([0, 1, 2, 1]),
        "query_features": torch.ones(2, 3),
        "query_labels": torch.tensor([0, 1]),
        "ks": [1, 2],
        "num_classes": 3,
    }
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**{**arguments, **change})


def test_a_temperature_is_above_zero() -> None:
    check_temperature(1e-9)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="need one above 0"):
            check_temperature(temperature)
