"""The protocol from images to a result: fractals, folders, our models and stock ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from synco_hub.data import EvaluationDataset, EvaluationTransform, FractalDataset, FractalParameters, load_image_folder
from synco_hub.evaluation import (
    evaluate_knn,
    evaluate_knn_features,
    knn_accuracy,
    measure_split,
    model_source,
    usable_ks,
)
from synco_hub.evaluation.measurement.saved_split import load_split, save_split
from synco_hub.features import ExtractionSettings
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.results import EvaluationResult

QUIET = ExtractionSettings(batch_size=16, max_bad_fraction=0.2, progress=False)


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
    result = evaluate_knn(model(), train, test, settings=QUIET, model_name="tiny")
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
    result = evaluate_knn(model, train, test, ks=[7, 3, 3], temperature=0.5, settings=QUIET)
    assert result.metrics == expected
    assert result.protocol.parameters["temperature"] == 0.5
    again = evaluate_knn_features(bank, queries, model_source(model), ks=[3, 7], temperature=0.5, progress=False)
    assert again.metrics == expected


def test_features_of_the_version_before_say_their_batch_size_and_vote_as_others(fractals: Any, tmp_path: Path) -> None:
    train, test = fractals
    model = deit()
    bank, queries = measure_split(model, train, QUIET), measure_split(model, test, QUIET)
    expected = evaluate_knn_features(bank, queries, model_source(model), ks=[3], progress=False)
    features = replace(bank.features, facts={**bank.features.facts, "batch_size": "8"})
    kept, source = load_split(save_split(replace(bank, features=features), model_source(model), tmp_path / "bank"))
    again = evaluate_knn_features(kept, queries, source, ks=[3], progress=False)
    assert (again.metrics, again.notes) == (expected.metrics, ())


def test_a_bank_that_holds_the_queries_is_right_at_k_1(fractals: Any) -> None:
    _, test = fractals
    assert evaluate_knn(deit(), test, test, ks=[1], settings=QUIET).metrics["top1_k1"] == 100.0


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
    result = evaluate_knn(deit(), train, test, settings=QUIET)
    assert [Path(name).name for name in result.skipped_files] == ["train_4.png", "test_4.png"]
    assert result.dataset.count == 11
    assert list(result.metrics) == ["top1_k10"]


def test_k_above_the_bank_is_an_error_when_it_was_asked_for(fractals: Any) -> None:
    train, test = fractals
    with pytest.raises(ValueError, match="k=61 with 60 training images"):
        evaluate_knn(deit(), train, test, ks=[10, 61], settings=QUIET)
    assert usable_ks(None, 150) == ((10, 20, 100), (200,))
    assert usable_ks(None, 1000) == ((10, 20, 100, 200), ())
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
        evaluate_knn(deit(), train, fewer, settings=QUIET)
    sides = []
    for name in ("ant", "bee"):
        for label in (name, "cat"):
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(5):
                Image.new("RGB", (32, 32)).save(tmp_path / name / label / f"{number}.png")
        sides.append(EvaluationDataset(load_image_folder(tmp_path / name, "train"), EvaluationTransform(32)))
    with pytest.raises(ValueError, match="class 0 is 'ant' in the training split and 'bee' in the test split"):
        evaluate_knn(deit(), *sides, settings=QUIET)


def test_images_without_labels_are_refused_before_any_forward_pass(tmp_path: Path, fractals: Any) -> None:
    for index in range(4):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{index}.png")
    unlabeled = EvaluationDataset(load_image_folder(tmp_path, "train"), EvaluationTransform(32))
    with pytest.raises(ValueError, match="k-NN evaluation needs a class for every image"):
        evaluate_knn(nn.Identity(), unlabeled, fractals[1], settings=QUIET)


def test_broken_weights_are_refused(fractals: Any) -> None:
    model = deit()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="16 of 16 images are NaN"):
        evaluate_knn(model, *fractals, settings=QUIET)
