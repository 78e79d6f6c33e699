"""One side of an evaluation: the frozen features of a split, and what a result says about model and data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from synco_hub.data import DatasetDescription, EvaluationDataset
from synco_hub.feature_adapter import feature_network, feature_rule
from synco_hub.feature_processes import extract_features_in_processes
from synco_hub.features import ExtractionSettings, Features
from synco_hub.results import DataSource, ModelSource


@dataclass(frozen=True)
class MeasuredSplit:
    """Features of a split with their origin.

    Attributes:
        features: One row for each readable image.
        source: What the split is; its count is that of the readable images.
        class_names: One name for each class, in label order.
        skipped_files: Names of the unreadable images.
        preprocessing: How an image became the network's input, JSON values.
    """

    features: Features
    source: DataSource
    class_names: tuple[str, ...]
    skipped_files: tuple[str, ...]
    preprocessing: dict[str, Any]


def measure_split(
    model: nn.Module, dataset: EvaluationDataset, settings: ExtractionSettings | None = None
) -> MeasuredSplit:
    """Compute the features of a split.

    Args:
        model: Any model that :mod:`synco_hub.feature_adapter` knows; it stays as it is.
        dataset: The split with its evaluation transform.
        settings: How features are computed.

    Raises:
        ValueError: As :func:`synco_hub.features.extract_features`.
    """
    about, settings = dataset.images.description, settings or ExtractionSettings()
    features = extract_features_in_processes(
        model, dataset, settings, title=f"features of {about.name} ({about.split})"
    )
    if dataset.images.multi_hot is not None:
        rows = torch.as_tensor(dataset.images.multi_hot, dtype=torch.float32)[features.indices]
        features = replace(features, labels=rows)
    return MeasuredSplit(
        features=features,
        source=data_source(about, len(features.values)),
        class_names=tuple(dataset.images.class_names),
        skipped_files=tuple(dataset.name(index) for index in features.skipped.tolist()),
        preprocessing={
            **preprocessing(dataset),
            **({} if settings.dtype is None else {"autocast": str(settings.dtype).removeprefix("torch.")}),
        },
    )


def preprocessing(dataset: EvaluationDataset) -> dict[str, Any]:
    """The evaluation transform of a data set as JSON values."""
    transform = dataset.transform
    return {
        "steps": repr(transform),
        "resize_size": transform.resize_size,
        "image_size": transform.image_size,
        "interpolation": transform.interpolation.value,
        "mean": list(transform.mean),
        "std": list(transform.std),
    }


def data_source(about: DatasetDescription, count: int) -> DataSource:
    """What a result says about a split.

    Args:
        about: The split's own description.
        count: Images that entered the measurement.
    """
    words = f"{about.source}; {about.split_rule}"
    return DataSource(about.name, about.split, count, about.fingerprint, words, about.num_classes)


def model_source(model: nn.Module, name: str | None = None) -> ModelSource:
    """What a result says about a model.

    Args:
        model: Any model that :mod:`synco_hub.feature_adapter` knows.
        name: What the user called it; None for the name it was loaded by, else its class.
    """
    network = feature_network(model)
    config: Any = getattr(network, "config", None)
    loaded_by = getattr(config, "name_or_path", None)
    return ModelSource(
        name=name or loaded_by or type(network).__name__,
        feature=feature_rule(model).description,
        revision=getattr(config, "_commit_hash", None),
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def classifier_source(classifier: nn.Module, name: str, revision: str) -> ModelSource:
    """What a result says about a classifier.

    Args:
        classifier: The network with its head.
        name: What the user called it.
        revision: Hash of its weights.
    """
    return ModelSource(name, "classifier", revision, sum(parameter.numel() for parameter in classifier.parameters()))
