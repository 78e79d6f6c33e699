"""k-NN evaluation of a model by name, or of features that were kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from synco_hub.cli.evaluation_inputs import DataChoice, evaluation_split
from synco_hub.evaluation import evaluate_knn, evaluate_knn_features, measure_split, model_source, usable_ks
from synco_hub.evaluation.knn import require_classes
from synco_hub.evaluation.measurement.saved_split import check_same_model, load_split, save_split
from synco_hub.features import ExtractionSettings
from synco_hub.hub.loading import load_model, model_facts
from synco_hub.results import EvaluationResult

_FILES = ("train.safetensors", "test.safetensors")


def knn_of_model(
    model: str,
    choice: DataChoice,
    ks: Sequence[int] | None,
    settings: ExtractionSettings,
    save_features: Path | None = None,
) -> EvaluationResult:
    """Measure a model, and keep its features if a folder for them is given.

    Args:
        model: See `synco_hub.hub.loading.load_model`.
        choice: Which images.
        ks: Numbers of neighbours; None for the protocol's.
        settings: How features are computed.
        save_features: Folder for the features of both splits.
    """
    started = time.perf_counter()
    network, processor = load_model(model)
    print(f"{model}: {model_facts(network, processor)}")
    train, test = (evaluation_split(choice, split, processor) for split in ("train", "test"))
    if save_features is None:
        return evaluate_knn(network, train, test, ks=ks, settings=settings, model_name=model)
    for dataset in (train, test):
        require_classes(dataset.images)
    usable_ks(ks, len(train))
    source = model_source(network, model)
    bank, queries = (measure_split(network, dataset, settings) for dataset in (train, test))
    for split, file in zip((bank, queries), _FILES, strict=True):
        save_split(split, source, save_features / file)
    return evaluate_knn_features(
        bank,
        queries,
        source,
        ks,
        device=settings.device or "cpu",
        progress=settings.progress,
        started=started,
    )


def knn_of_features(folder: Path, ks: Sequence[int] | None, device: str) -> EvaluationResult:
    """Measure features that :func:`knn_of_model` kept.

    Args:
        folder: Where they are.
        ks: Numbers of neighbours; None for the protocol's.
        device: Where neighbours are searched.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file holds no features, or they are of two models.
    """
    (bank, model), (queries, other) = (load_split(folder / file) for file in _FILES)
    check_same_model(model, other)
    return evaluate_knn_features(bank, queries, model, ks, device=device)
