"""k-NN evaluation by the DINO protocol: no training, the frozen features vote.

Features are L2-normalised, similarity is cosine, each of the k nearest training images votes for its class with
exp(similarity / 0.07). Both sides are centre crops. All k come from one search for the largest.

Expected for SynCo-v2 on ImageNet with k = 10 (paper, Table 12): 71.02 % for DeiT-S, 69.28 % for Swin-T.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from synco_hub.data import UNLABELED, EvaluationDataset, ImageDataset
from synco_hub.data.catalog.sets import CATALOG, find_row_meant
from synco_hub.data.class_lists import read_class_list
from synco_hub.data.subsets import take_classes, take_low_shot_subset
from synco_hub.errors import DoesNotApplyError
from synco_hub.evaluation.measurement import (
    REAL,
    EvaluatedModel,
    MeasuredSplit,
    check_same_model,
    check_splits_alike,
    find_standard_errors,
    format_metrics,
    load_split,
    match_classes,
    measure_split,
    model_source,
    open_split,
    result_of_splits,
    save_each,
    save_split,
)
from synco_hub.evaluation.nearest_neighbours import nearest_neighbours
from synco_hub.feature_pooling import find_feature_network
from synco_hub.features import check_finite
from synco_hub.metrics import (
    average_precision,
    check_label_range,
    hits_any_target,
    target_ranks,
    voc_average_precision_11_point,
    weighted_knn_votes,
)
from synco_hub.metrics.weighted_knn_vote import TEMPERATURE
from synco_hub.results import EvaluationResult, ModelSource, ProtocolFacts
from synco_hub.settings import DatasetChoice, KnnSettings

DEFAULT_KS = (10, 20, 100, 200)
# Of `KnnSettings.save_features`: the bank and the queries.
_FILES = ("train.safetensors", "test.safetensors")
_VOTED_TOGETHER = 1024


def evaluate(
    model: EvaluatedModel | None, data: DatasetChoice, settings: KnnSettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a backbone, or without one the features that an earlier measurement kept."""
    if settings.features is not None:
        result = _evaluate_kept_features(Path(settings.features), settings)
    elif model is None:
        raise ValueError("--model is missing: give the model to measure, or --features of an earlier measurement.")
    else:
        result = evaluate_knn(model, _open_bank(model, data, settings), open_split(data, "test", model), settings)
    return save_each([result], output)


def format_table(result: EvaluationResult) -> str:
    """Which feature of which images, and the metrics."""
    about, numbers = result.dataset, format_metrics(result.metrics, 12, result.standard_errors)
    return (
        f"{result.model.name}: feature: {result.model.feature}; images: {result.preprocessing.get('steps')}\n"
        f"{about.count} test images of {about.name}: {about.description}\n{numbers}"
    )


def evaluate_knn(
    model: EvaluatedModel,
    train: EvaluationDataset,
    test: EvaluationDataset,
    settings: KnnSettings | None = None,
    temperature: float = TEMPERATURE,
) -> EvaluationResult:
    """Measure a frozen model: the features of the training split vote for the classes of the test split.

    Args:
        model: Any model that :mod:`synco_hub.feature_pooling` knows; it stays as it is.
        train: The bank, with the evaluation transform (centre crops, no augmentation).
        test: The queries.
        settings: How features are computed, where neighbours are searched, where features are kept; numbers of
            neighbours, None for 10, 20, 100 and 200, of which those above the bank size are left out and named in the
            result.
        temperature: Temperature of the vote, above 0.

    Returns:
        ``top1_k<k>`` and, from 5 classes and neighbours on, ``top5_k<k>`` in percent, or ``map_11_point_k<k>`` and
        ``map_integral_k<k>`` where an image can have several classes, with everything needed to measure them again.

    Raises:
        ValueError: If a split is empty or has images without a label, the splits have different classes, a k that
            was asked for is above the bank size, too many images are unreadable, or features are NaN.
    """
    started = time.perf_counter()
    settings = settings or KnnSettings()
    # What can be known before hours of forward passes is checked before them.
    match_classes(train.images, test.images, "k-NN evaluation", several=True)
    usable_ks(settings.k, len(train))
    check_temperature(temperature)
    source = model_source(model.network, model.name, model.revision, settings.precision)
    bank, queries = (measure_split(model.network, dataset, settings) for dataset in (train, test))
    if settings.save_features is not None:
        for split, file in zip((bank, queries), _FILES, strict=True):
            save_split(split, source, Path(settings.save_features) / file)
    if settings.device is None:
        settings = replace(settings, device=str(next(find_feature_network(model.network).parameters()).device))
    return evaluate_knn_features(bank, queries, source, settings, temperature, started)


def evaluate_knn_features(
    bank: MeasuredSplit,
    queries: MeasuredSplit,
    model: ModelSource,
    settings: KnnSettings | None = None,
    temperature: float = TEMPERATURE,
    started: float | None = None,
) -> EvaluationResult:
    """The second half of :func:`evaluate_knn`, for features that are there already.

    Args:
        bank: Features of the training split.
        queries: Features of the test split, of the same model.
        model: What the result says about the model.
        settings: Numbers of neighbours, where they are searched (None for the CPU), progress.
        temperature: Temperature of the vote, above 0.
        started: ``time.perf_counter()`` when the measurement began; None for now.

    Raises:
        ValueError: See :func:`evaluate_knn`.
    """
    started = time.perf_counter() if started is None else started
    settings = settings or KnnSettings()
    device = settings.device or "cpu"
    check_splits_alike(bank.class_names, queries.class_names)
    kept, left_out = usable_ks(settings.k, len(bank.features.values))
    sides = (bank.features.values, bank.features.labels, queries.features.values, queries.features.labels)
    if bank.features.labels.ndim == 2:
        metrics = knn_average_precision(*sides, kept, temperature, device, settings.progress)
    else:
        rows = None if queries.real is None else queries.real.rows
        metrics = knn_accuracy(*sides, kept, len(bank.class_names), temperature, device, settings.progress, rows)
    notes = [f"k={k} of the protocol was left out: the bank has {bank.source.count} images" for k in left_out]
    return result_of_splits(
        *(bank, queries, model, metrics),
        ProtocolFacts(
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
        *(device, started, notes),
        standard_errors=find_standard_errors(metrics, queries.source.count, queries.real),
    )


def _evaluate_kept_features(folder: Path, settings: KnnSettings) -> EvaluationResult:
    (bank, model), (queries, other) = (load_split(folder / file) for file in _FILES)
    check_same_model(model, other)
    return evaluate_knn_features(bank, queries, model, settings)


def _open_bank(model: EvaluatedModel, data: DatasetChoice, settings: KnnSettings) -> EvaluationDataset:
    """The training split, that of another data set, or a low-shot part of either."""
    if settings.train_dataset is None:
        row = find_row_meant(data.dataset, data.data_dir, data.dataset_id)
        if row is not None and "train" not in row.splits:
            raise DoesNotApplyError(
                f"{data.dataset} has test images only: name the training images with --train-dataset, such as "
                "imagenet-1k, and their folder with --train-data-dir."
            )
        images = open_split(data, "train", model).images
    else:
        other = DatasetChoice(settings.train_dataset, settings.train_data_dir, split_seed=data.split_seed)
        images = _keep_same_classes(open_split(other, "train", model).images, data.dataset)
    images = take_low_shot_subset(images, settings.train_fraction, settings.train_list, data.split_seed)
    return EvaluationDataset(images, model.transform)


def _keep_same_classes(images: ImageDataset, measured: str) -> ImageDataset:
    """Of the training images of another set those whose classes the measured set of the catalog has."""
    row = CATALOG.get(measured)
    if row is None or row.class_list is None or images.class_names == list(read_class_list(row.class_list)):
        return images
    return take_classes(images, read_class_list(row.class_list))


def usable_ks(ks: Sequence[int] | None, bank_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The k to measure, rising, and the defaults left out because the bank is too small.

    Args:
        ks: What was asked for; None for the defaults, of which, when every one is too large, the whole bank votes.
        bank_size: Number of training images.

    Raises:
        ValueError: If none was asked for, or one is below 1 or above the bank's size.
    """
    if not bank_size:
        raise ValueError("k-NN has no training image that could vote: give a training split with readable images")
    if ks is None:
        kept = tuple(k for k in DEFAULT_KS if k <= bank_size) or (bank_size,)
        return kept, tuple(k for k in DEFAULT_KS if k > bank_size)
    if not ks:
        raise ValueError("ks=() names no number of neighbours: give at least one, such as 10")
    for k in ks:
        if not 1 <= k <= bank_size:
            raise ValueError(f"k={k} with {bank_size} training images: choose k from 1 to {bank_size}, or more images")
    return tuple(sorted(set(ks))), ()


def knn_accuracy(
    bank_features: Tensor,
    bank_labels: Tensor,
    query_features: Tensor,
    query_labels: Tensor,
    ks: Sequence[int],
    num_classes: int,
    temperature: float = TEMPERATURE,
    device: torch.device | str = "cpu",
    progress: bool = False,
    real: Tensor | None = None,
) -> dict[str, float]:
    """Accuracy of the weighted vote for every k, from one search.

    Ties are settled by index: of equally similar images the lower is nearer, of equal votes the lower class ahead.

    Args:
        bank_features: Shape: (bank, dim).
        bank_labels: Class indices. Shape: (bank,).
        query_features: Shape: (queries, dim).
        query_labels: Class indices. Shape: (queries,).
        ks: Numbers of neighbours, each from 1 to the size of the bank.
        num_classes: Number of classes.
        temperature: Temperature of the vote, above 0.
        device: Where similarities are computed and the vote is counted, in a fixed order.
        progress: Show a progress bar.
        real: Every right class of a query, padded by -1, see `RealLabels`. Shape: (queries, most).

    Returns:
        ``top1_k<k>`` for every k and, from 5 classes and neighbours on, ``top5_k<k>``; with `real` ``top1_real_k<k>``
        over the queries that have a class in it; in percent.

    Raises:
        ValueError: If a side is empty, shapes do not fit, a feature is NaN, a label is missing or out of range, or a
            k or the temperature is out of range.
    """
    _check_side("training", bank_features, bank_labels, num_classes)
    _check_side("test", query_features, query_labels, num_classes)
    _check_ks(ks, len(bank_features))
    check_temperature(temperature)
    found = nearest_neighbours(bank_features, query_features, max(ks), device, progress=progress)
    neighbour_labels, query_labels = bank_labels.to(device)[found.indices], query_labels.to(device)
    right: dict[str, Tensor | int] = {}
    for start in range(0, len(query_labels), _VOTED_TOGETHER):
        rows = slice(start, start + _VOTED_TOGETHER)
        for k, votes in weighted_knn_votes(
            found.similarities[rows], neighbour_labels[rows], num_classes, ks, temperature
        ):
            ranks = target_ranks(votes, query_labels[rows])
            hits = {f"top1_k{k}": ranks < 1}
            if min(k, num_classes) >= 5:  # of fewer votes, some guesses would be classes without any
                hits[f"top5_k{k}"] = ranks < 5
            if real is not None:
                hits[f"top1{REAL}_k{k}"] = hits_any_target(votes, real[rows].to(device))
            right |= {name: right.get(name, 0) + each.sum() for name, each in hits.items()}
    counted = 0 if real is None else int((real[:, 0] >= 0).sum())
    counts = {name: counted if REAL in name else len(query_labels) for name in right}
    return {name: 100.0 * int(right[name]) / count for name, count in counts.items() if count}


def _check_ks(ks: Sequence[int], bank_size: int) -> None:
    if not ks:
        raise ValueError("ks=() names no number of neighbours: give at least one, such as 10")
    if wrong := [k for k in ks if not 1 <= k <= bank_size]:
        raise ValueError(f"k={wrong[0]} with {bank_size} training images: choose every k from 1 to their number")


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: the weights exp(similarity / temperature) need one above 0")


def _check_side(name: str, features: Tensor, labels: Tensor, num_classes: int) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"{name} features {tuple(features.shape)} and labels {tuple(labels.shape)} do not fit: "
            "give (images, dim) features and one class index an image"
        )
    if len(features) == 0:
        raise ValueError(f"the {name} split is empty: a vote needs images on both sides")
    check_finite(features)
    if bool((labels == UNLABELED).any()):
        raise ValueError(
            f"{int((labels == UNLABELED).sum())} of {len(labels)} {name} images have no label: "
            "k-NN needs a class for every image, such as one sub-folder per class"
        )
    check_label_range(labels, num_classes, f"{name} image")


def knn_average_precision(
    bank_features: Tensor,
    bank_targets: Tensor,
    query_features: Tensor,
    query_targets: Tensor,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, float]:
    """Mean average precision of the vote for every k, from one search, where an image can have several classes.

    Every neighbour votes for each of its classes; what is measured is how well the share of the votes ranks the images
    of a class. DINO's protocol has one class an image: this is the same vote, scored as probing scores VOC 2007.

    Args:
        bank_features: Shape: (bank, dim).
        bank_targets: 1 present, 0 absent, -1 neither. Shape: (bank, num_classes).
        query_features: Shape: (queries, dim).
        query_targets: As the bank's. Shape: (queries, num_classes).
        ks: Numbers of neighbours, each from 1 to the size of the bank.
        temperature: Temperature of the vote, above 0.
        device: Where similarities are computed and the vote is counted.
        progress: Show a progress bar.

    Returns:
        ``map_11_point_k<k>`` and ``map_integral_k<k>`` for every k; in percent.
    """
    for name, features, targets in (
        ("training", bank_features, bank_targets),
        ("test", query_features, query_targets),
    ):
        if features.ndim != 2 or targets.shape != (len(features), bank_targets.shape[-1]) or not len(features):
            raise ValueError(
                f"{name} features {tuple(features.shape)} and targets {tuple(targets.shape)} do not fit: give "
                "(images, dim) features and one row of classes an image, at least one"
            )
        check_finite(features)
    _check_ks(ks, len(bank_features))
    check_temperature(temperature)
    found = nearest_neighbours(bank_features, query_features, max(ks), device, progress=progress)
    bank_targets, query_targets, metrics = bank_targets.to(device), query_targets.cpu(), {}
    for k in sorted(set(ks)):
        blocks = [
            _shares(found.similarities[rows, :k], bank_targets[found.indices[rows, :k]], temperature)
            for rows in map(_rows, range(0, len(query_features), _VOTED_TOGETHER))
        ]
        scores = torch.cat(blocks).cpu()
        metrics[f"map_11_point_k{k}"] = 100.0 * voc_average_precision_11_point(scores, query_targets)
        metrics[f"map_integral_k{k}"] = 100.0 * average_precision(scores, query_targets)
    return metrics


def _rows(start: int) -> slice:
    return slice(start, start + _VOTED_TOGETHER)


def _shares(similarities: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Share of the counting votes (queries, num_classes); targets are (queries, k, num_classes)."""
    weights = torch.exp((similarities.double() - similarities.double().amax(dim=1, keepdim=True)) / temperature)
    votes = (weights[:, :, None] * (targets == 1)).sum(dim=1)
    counting = (weights[:, :, None] * (targets >= 0)).sum(dim=1)
    return votes / counting.clamp(min=torch.finfo(torch.float64).tiny)
