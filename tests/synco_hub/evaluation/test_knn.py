"""The protocol from images to a result: fractals, folders, our models and stock ones.

Accuracy against a brute-force vote in numpy, ties included, and against scikit-learn.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from synco_hub.data import EvaluationDataset, EvaluationTransform, FractalDataset, FractalParameters, load_image_folder
from synco_hub.evaluation import (
    evaluate_knn,
    evaluate_knn_features,
    knn_accuracy,
    measure_split,
    model_source,
    usable_ks,
)
from synco_hub.evaluation.knn import check_temperature, knn_average_precision
from synco_hub.evaluation.measurement import EvaluatedModel, load_split, save_split
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.results import EvaluationResult
from synco_hub.settings import KnnSettings

QUIET = KnnSettings(batch_size=16, num_workers=0, max_bad_fraction=0.2, progress=False)


@pytest.fixture(scope="module")
def fractals(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationDataset, EvaluationDataset]:
    cache = tmp_path_factory.mktemp("fractals")
    parameters = FractalParameters(num_classes=5, train_images_per_class=12, test_images_per_class=6, image_size=32)
    train, test = (
        EvaluationDataset(FractalDataset(split, parameters, cache), EvaluationTransform(32))
        for split in ("train", "test")
    )
    return train, test


def deit() -> nn.Module:
    torch.manual_seed(0)
    return SynCoModel(SynCoConfig(backbone="deit-s", image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3))


def named(network: nn.Module) -> EvaluatedModel:
    return EvaluatedModel(network, None, "mine")


def swin() -> nn.Module:
    torch.manual_seed(0)
    small: dict[str, Any] = {"image_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 8}
    return SynCoModel(SynCoConfig(backbone="swin-t", depth=[1, 1], num_heads=[2, 2], **small))


def stock_vit() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=32, patch_size=8
    )
    return transformers.ViTForImageClassification(config)


@pytest.mark.parametrize("model", [deit, swin, stock_vit])
def test_from_images_to_a_result_that_can_be_kept(model: Any, fractals: Any, tmp_path: Path) -> None:
    train, test = fractals
    result = evaluate_knn(EvaluatedModel(model(), None, "tiny"), train, test, QUIET)
    assert set(result.metrics) == {"top1_k10", "top5_k10", "top1_k20", "top5_k20"}
    assert all(0 <= value <= 100 for value in result.metrics.values())
    assert result.metrics["top5_k10"] == 100.0
    assert (result.model.name, result.protocol.name) == ("tiny", "knn")
    assert result.protocol.parameters["ks"] == [10, 20]
    assert result.protocol.parameters["ks_left_out"] == [100, 200]
    assert result.notes == tuple(f"k={k} of the protocol was left out: the bank has 60 images" for k in (100, 200))
    assert (result.dataset.split, result.dataset.count) == ("test", 30)
    assert result.training_dataset is not None
    assert (result.training_dataset.split, result.training_dataset.count) == ("train", 60)
    assert result.duration_s > 0
    assert EvaluationResult.load(result.save(tmp_path / "knn.json"), protocol="knn") == result


def test_the_numbers_are_those_of_the_features(fractals: Any) -> None:
    train, test = fractals
    model = deit()
    bank, queries = measure_split(model, train, QUIET), measure_split(model, test, QUIET)
    expected = knn_accuracy(
        bank.features.values, bank.features.labels, queries.features.values, queries.features.labels, [3, 7], 5, 0.5
    )
    result = evaluate_knn(named(model), train, test, replace(QUIET, k=[7, 3, 3]), 0.5)
    assert result.metrics == expected
    assert result.protocol.parameters["temperature"] == 0.5
    again = evaluate_knn_features(bank, queries, model_source(model), replace(QUIET, k=[3, 7]), 0.5)
    assert again.metrics == expected


def test_features_of_the_version_before_say_their_batch_size_and_vote_as_others(fractals: Any, tmp_path: Path) -> None:
    train, test = fractals
    model = deit()
    bank, queries = measure_split(model, train, QUIET), measure_split(model, test, QUIET)
    expected = evaluate_knn_features(bank, queries, model_source(model), replace(QUIET, k=[3]))
    features = replace(bank.features, facts={**bank.features.facts, "batch_size": "8"})
    kept, source = load_split(save_split(replace(bank, features=features), model_source(model), tmp_path / "bank"))
    again = evaluate_knn_features(kept, queries, source, replace(QUIET, k=[3]))
    assert (again.metrics, again.notes) == (expected.metrics, ())


def test_a_bank_that_holds_the_queries_is_right_at_k_1(fractals: Any) -> None:
    _, test = fractals
    assert evaluate_knn(named(deit()), test, test, replace(QUIET, k=1)).metrics["top1_k1"] == 100.0


def test_skipped_files_of_both_sides_are_named(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for index in range(12):
            path = tmp_path / split / f"class_{index % 2}" / f"{split}_{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        (tmp_path / split / "class_0" / f"{split}_4.png").write_bytes(b"broken")
    train, test = (
        EvaluationDataset(load_image_folder(tmp_path, split), EvaluationTransform(32)) for split in ("train", "test")
    )
    result = evaluate_knn(named(deit()), train, test, QUIET)
    assert [Path(name).name for name in result.skipped_files] == ["train_4.png", "test_4.png"]
    assert result.dataset.count == 11
    assert list(result.metrics) == ["top1_k10"]


def test_k_above_the_bank_is_an_error_when_it_was_asked_for(fractals: Any) -> None:
    train, test = fractals
    with pytest.raises(ValueError, match="k=61 with 60 training images"):
        evaluate_knn(named(nn.Identity()), train, test, replace(QUIET, k=[10, 61]))  # before any forward pass
    assert usable_ks(None, 150) == ((10, 20, 100), (200,))
    assert usable_ks(None, 1000) == ((10, 20, 100, 200), ())
    assert usable_ks(None, 20) == ((10, 20), (100, 200))
    assert usable_ks(None, 7) == ((7,), (10, 20, 100, 200))
    assert usable_ks([5, 1, 5], 5) == ((1, 5), ())
    for bad in ([0], [-3], []):
        with pytest.raises(ValueError, match="k"):
            usable_ks(bad, 5)


def test_splits_of_different_classes_are_refused(fractals: Any, tmp_path: Path) -> None:
    train = fractals[0]
    fewer = EvaluationDataset(
        FractalDataset("test", FractalParameters(3, 1, 1, 32), tmp_path), EvaluationTransform(32)
    )
    with pytest.raises(ValueError, match="training split has 5 classes, the test split 3"):
        evaluate_knn(named(deit()), train, fewer, QUIET)
    sides = []
    for name in ("ant", "bee"):
        for label in (name, "cat"):
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(5):
                Image.new("RGB", (32, 32)).save(tmp_path / name / label / f"{number}.png")
        sides.append(EvaluationDataset(load_image_folder(tmp_path / name, "train"), EvaluationTransform(32)))
    with pytest.raises(ValueError, match="class 0 is 'ant' in the training split and 'bee' in the test split"):
        evaluate_knn(named(deit()), *sides, QUIET)


def test_images_without_labels_are_refused_before_any_forward_pass(tmp_path: Path, fractals: Any) -> None:
    for index in range(4):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{index}.png")
    unlabeled = EvaluationDataset(load_image_folder(tmp_path, "train"), EvaluationTransform(32))
    with pytest.raises(ValueError, match="k-NN evaluation needs a class for every image"):
        evaluate_knn(named(nn.Identity()), unlabeled, fractals[1], QUIET)


def test_broken_weights_are_refused(fractals: Any) -> None:
    model = deit()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="16 of 16 images are NaN"):
        evaluate_knn(named(model), *fractals, QUIET)


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
        if classes >= 5 and k >= 5:
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
    assert knn_accuracy(bank, labels, 3 * bank, labels, [1], 10) == {"top1_k1": 100.0}


def test_fewer_than_five_classes_have_no_top_5() -> None:
    bank, labels = torch.eye(4), torch.arange(4)
    assert list(knn_accuracy(bank, labels, bank, labels, [2, 1], 4)) == ["top1_k1", "top1_k2"]


def test_fewer_than_five_neighbours_have_no_top_5() -> None:
    # Of classes that nobody votes for the first would be guessed, which are right for most of these labels.
    bank, labels = torch.eye(20), torch.arange(20) % 10
    found = knn_accuracy(bank, labels, bank, labels, [1, 4, 5, 6], 10)
    assert list(found) == ["top1_k1", "top1_k4", "top1_k5", "top5_k5", "top1_k6", "top5_k6"]


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
    with pytest.raises(ValueError, match="choose every k from 1"):
        knn_average_precision(bank, bank_targets, queries, query_targets, [61])
    with pytest.raises(ValueError, match="temperature"):
        knn_average_precision(bank, bank_targets, queries, query_targets, [5], temperature=0)
    with pytest.raises(ValueError, match="do not fit"):
        knn_average_precision(bank[:0], bank_targets[:0], queries, query_targets, [1])
    bank[3, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN|finite"):
        knn_average_precision(bank, bank_targets, queries, query_targets, [5])
