"""k-NN evaluation by the DINO protocol: no training, the frozen features vote.

Features are L2-normalised, similarity is cosine, each of the k nearest training images votes for its class with
exp(similarity / 0.07). Both sides are centre crops. All k come from one search for the largest.

Expected for SynCo-v2 on ImageNet with k = 10 (paper, Table 12): 71.02 % for DeiT-S, 69.28 % for Swin-T.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from synco_hub.data import EvaluationDataset, ImageDataset
from synco_hub.evaluation.measurement.measured_split import MeasuredSplit, measure_split, model_source
from synco_hub.evaluation.neighbours.knn_accuracy import check_temperature, knn_accuracy
from synco_hub.evaluation.neighbours.knn_average_precision import knn_average_precision
from synco_hub.feature_adapter import feature_network
from synco_hub.features import ExtractionSettings
from synco_hub.metrics.weighted_knn_vote import TEMPERATURE
from synco_hub.results import EvaluationResult, ModelSource, ProtocolFacts, device_name

DEFAULT_KS = (10, 20, 100, 200)


def evaluate_knn(
    model: nn.Module,
    train_dataset: EvaluationDataset,
    test_dataset: EvaluationDataset,
    ks: Sequence[int] | None = None,
    temperature: float = TEMPERATURE,
    settings: ExtractionSettings | None = None,
    model_name: str | None = None,
) -> EvaluationResult:
    """Measure a frozen model: the features of the training split vote for the classes of the test split.

    Args:
        model: Any model that :mod:`synco_hub.feature_adapter` knows; it stays as it is.
        train_dataset: The bank, with the evaluation transform (centre crops, no augmentation).
        test_dataset: The queries.
        ks: Numbers of neighbours; None for 10, 20, 100 and 200, of which those above the bank size are left out and
            named in the result.
        temperature: Temperature of the vote, above 0.
        settings: How features are computed, and where neighbours are searched.
        model_name: What the result calls the model; None for the name it was loaded by.

    Returns:
        ``top1_k<k>`` and, from 5 classes on, ``top5_k<k>`` in percent, or ``map_11_point_k<k>`` and
        ``map_integral_k<k>`` where an image can have several classes, with everything needed to measure them again.

    Raises:
        ValueError: If a split is empty or has images without a label, the splits have different classes, a k that
            was asked for is above the bank size, too many images are unreadable, or features are NaN.
    """
    started = time.perf_counter()
    settings = settings or ExtractionSettings()
    # What can be known before hours of forward passes is checked before them.
    for dataset in (train_dataset, test_dataset):
        require_classes(dataset.images)
    _check_same_classes(train_dataset.images.class_names, test_dataset.images.class_names)
    usable_ks(ks, len(train_dataset))
    check_temperature(temperature)
    device = next(feature_network(model).parameters()).device if settings.device is None else settings.device
    bank, queries = (measure_split(model, dataset, settings) for dataset in (train_dataset, test_dataset))
    return evaluate_knn_features(
        bank,
        queries,
        model_source(model, model_name),
        ks,
        temperature,
        device,
        settings.progress,
        started,
    )


def evaluate_knn_features(
    bank: MeasuredSplit,
    queries: MeasuredSplit,
    model: ModelSource,
    ks: Sequence[int] | None = None,
    temperature: float = TEMPERATURE,
    device: torch.device | str = "cpu",
    progress: bool = True,
    started: float | None = None,
) -> EvaluationResult:
    """The second half of :func:`evaluate_knn`, for features that are there already.

    Args:
        bank: Features of the training split.
        queries: Features of the test split, of the same model.
        model: What the result says about the model.
        ks: See :func:`evaluate_knn`.
        temperature: Temperature of the vote, above 0.
        device: Where neighbours are searched.
        progress: Show a progress bar.
        started: ``time.perf_counter()`` when the measurement began; None for now.

    Raises:
        ValueError: See :func:`evaluate_knn`.
    """
    started = time.perf_counter() if started is None else started
    _check_same_classes(bank.class_names, queries.class_names)
    kept, left_out = usable_ks(ks, len(bank.features.values))
    sides = (bank.features.values, bank.features.labels, queries.features.values, queries.features.labels)
    if bank.features.labels.ndim == 2:
        metrics = knn_average_precision(*sides, kept, temperature, device, progress)
    else:
        metrics = knn_accuracy(*sides, kept, len(bank.class_names), temperature, device, progress)
    notes = [f"k={k} of the protocol was left out: the bank has {bank.source.count} images" for k in left_out]
    return EvaluationResult(
        metrics=metrics,
        model=model,
        dataset=queries.source,
        training_dataset=bank.source,
        protocol=ProtocolFacts(
            "knn",
            {
                "ks": list(kept),
                "ks_left_out": list(left_out),
                "temperature": temperature,
                "similarity": "cosine",
                "weight": "exp(similarity / temperature)",
                "ties": "lower index first",
            },
        ),
        preprocessing=queries.preprocessing,
        device=device_name(device),
        duration_s=time.perf_counter() - started,
        skipped_files=(*bank.skipped_files, *queries.skipped_files),
        notes=tuple(notes),
    )


def usable_ks(ks: Sequence[int] | None, bank_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which k are measured, and which defaults are left out because the bank is too small.

    Args:
        ks: Numbers of neighbours that were asked for; None for the protocol's 10, 20, 100, 200.
        bank_size: Number of training images.

    Returns:
        The k to measure, rising, and the defaults left out. When every default is too large, the whole bank votes.

    Raises:
        ValueError: If a k that was asked for is below 1 or above the bank size, or none was.
    """
    if ks is None:
        kept = tuple(k for k in DEFAULT_KS if k <= bank_size) or (bank_size,)
        return kept, tuple(k for k in DEFAULT_KS if k > bank_size)
    if not ks:
        raise ValueError("ks=() names no number of neighbours: give at least one, such as 10")
    for k in ks:
        if not 1 <= k <= bank_size:
            raise ValueError(f"k={k} with {bank_size} training images: choose k from 1 to {bank_size}, or more images")
    return tuple(sorted(set(ks))), ()


def require_classes(images: ImageDataset) -> None:
    """Refuses a split without a class, or several, for every image.

    Raises:
        ValueError: If there are images without any.
    """
    if images.multi_hot is None:
        images.require_labels("k-NN evaluation")


def _check_same_classes(train: Sequence[str], test: Sequence[str]) -> None:
    if len(train) != len(test):
        raise ValueError(
            f"the training split has {len(train)} classes, the test split {len(test)}: "
            "labels would not mean the same; give two splits of one data set"
        )
    for label, (ours, theirs) in enumerate(zip(train, test, strict=True)):
        if ours != theirs:
            raise ValueError(
                f"class {label} is {ours!r} in the training split and {theirs!r} in the test split: "
                "labels would not mean the same; give two splits of one data set"
            )
