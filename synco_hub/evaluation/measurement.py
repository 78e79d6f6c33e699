"""What every protocol begins with and every result says: the model, a split of images, their frozen features."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synco_hub.data import DatasetDescription, EvaluationDataset, EvaluationTransform, ImageDataset, load_dataset
from synco_hub.data.class_labels import number_alike, warn_of_untrained_classes
from synco_hub.data.evaluation_transform import tell_colours
from synco_hub.data.real_labels import VALIDATED_BY_IMAGENET, RealLabels, find_real_labels
from synco_hub.evaluation.leaks import check_leak
from synco_hub.feature_pooling import find_feature_network, find_feature_rule
from synco_hub.features import AUTOCAST_TYPES, Features, extract_features_in_processes
from synco_hub.metrics.accuracy import standard_error
from synco_hub.results import (
    DataSource,
    EvaluationResult,
    ModelSource,
    ProtocolFacts,
    device_name,
    explain_standard_errors,
)
from synco_hub.settings import DatasetChoice, ExtractionSettings, Precision
from synco_hub.weights_identity import hash_weights

_KEY = "measured_split"
# In the name of an accuracy on ImageNet-ReaL.
REAL = "_real"
IN_MEMORY = "none: a network in memory"


@dataclass(frozen=True)
class EvaluatedModel:
    """A frozen model with what a protocol needs to know of it.

    Attributes:
        network: A backbone, or a classifier that gives ``logits``.
        processor: Its image processor.
        name: What results call it.
        class_names: Of a classifier, in the order of its logits.
        revision: Commit on the Hub, or in words why there is none.
        pretrained_on: Folders that keep fingerprints of the images it was pretrained on; test images are looked for
            among them.
        leaks: What was found, a line for each data set.
    """

    network: nn.Module
    processor: Any
    name: str
    class_names: tuple[str, ...] = ()
    revision: str = IN_MEMORY
    pretrained_on: tuple[Path, ...] = ()
    leaks: list[str] = field(default_factory=list, compare=False)

    def check_leak(self, images: ImageDataset, progress: bool = True) -> None:
        """Look for test images among those that it was pretrained on."""
        self.leaks.extend(line for line in check_leak(images, self.pretrained_on, progress) if line not in self.leaks)

    @cached_property
    def transform(self) -> EvaluationTransform:
        """How an image becomes the network's input: resized and centre-cropped by the model's own numbers."""
        return EvaluationTransform.from_image_processor(self.processor)

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, for values in [0, 1]."""
        return self._colours[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, for values in [0, 1]."""
        return self._colours[1]

    @cached_property
    def _colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Told by the processor, whatever sizes it makes: some protocols cut images themselves."""
        return tell_colours(self.processor) or (self.transform.mean, self.transform.std)


def open_split(data: DatasetChoice, split: str, model: EvaluatedModel) -> EvaluationDataset:
    """One split of a data set, each image as the model wants it."""
    transform = model.transform
    images = load_dataset(data, split, image_size=transform.image_size)
    if split != "train":
        model.check_leak(images)
    return EvaluationDataset(images, transform)


def match_classes(train: ImageDataset, test: ImageDataset, purpose: str, several: bool = False) -> None:
    """Give two splits one list of classes, and refuse those without a class, or other classes; `several` an image."""
    for images in (train, test):
        if not several or images.multi_hot is None:
            images.require_labels(purpose)
    number_alike(train, test)
    warn_of_untrained_classes(train, test)
    check_splits_alike(train.class_names, test.class_names)


def check_splits_alike(train: Sequence[str], test: Sequence[str]) -> None:
    """Refuse two splits of other classes."""
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


@dataclass(frozen=True)
class MeasuredSplit:
    """Features of a split with their origin.

    Attributes:
        features: One row for each readable image.
        source: What the split is; its count is that of the readable images.
        class_names: One name for each class, in label order.
        skipped_files: Names of the unreadable images.
        preprocessing: How an image became the network's input, JSON values.
        real: Of ImageNet's validation images, a row for each readable one.
    """

    features: Features
    source: DataSource
    class_names: tuple[str, ...]
    skipped_files: tuple[str, ...]
    preprocessing: dict[str, Any]
    real: RealLabels | None = None


def measure_split(
    model: nn.Module, dataset: EvaluationDataset, settings: ExtractionSettings | None = None
) -> MeasuredSplit:
    """Compute the features of a split.

    Args:
        model: Any model that :mod:`synco_hub.feature_pooling` knows; it stays as it is.
        dataset: The split with its evaluation transform.
        settings: How features are computed.

    Raises:
        ValueError: As :func:`synco_hub.features.extract_features`.
    """
    about, settings = dataset.images.description, settings or ExtractionSettings()
    dtype = AUTOCAST_TYPES[settings.precision]
    features = extract_features_in_processes(
        model, dataset, settings, title=f"features of {about.name} ({about.split})"
    )
    if dataset.images.multi_hot is not None:
        rows = torch.as_tensor(dataset.images.multi_hot, dtype=torch.float32)[features.indices]
        features = replace(features, labels=rows)
    real = find_real_labels(dataset.images)
    return MeasuredSplit(
        features=features,
        source=data_source(about, len(features.values)),
        class_names=tuple(dataset.images.class_names),
        skipped_files=tuple(dataset.name(index) for index in features.skipped.tolist()),
        preprocessing={
            **preprocessing(dataset),
            **({} if dtype is None else {"autocast": str(dtype).removeprefix("torch.")}),
        },
        real=None if real is None else real.take(features.indices),
    )


def preprocessing(dataset: EvaluationDataset) -> dict[str, Any]:
    """The evaluation transform of a data set as JSON values."""
    return dataset.transform.facts()


def data_source(about: DatasetDescription, count: int) -> DataSource:
    """What a result says about a split."""
    words = f"{about.source}; {about.split_rule}"
    return DataSource(about.name, about.split, count, about.fingerprint, words, about.num_classes)


def model_source(
    model: nn.Module, name: str | None = None, revision: str = IN_MEMORY, precision: Precision = "fp32"
) -> ModelSource:
    """What a result says about a model.

    Args:
        model: Any model that :mod:`synco_hub.feature_pooling` knows.
        name: What the user called it; None for the name it was loaded by, else its class.
        revision: Commit on the Hub, or in words why there is none.
        precision: Of the forward passes.
    """
    network = find_feature_network(model)
    config: Any = getattr(network, "config", None)
    loaded_by = getattr(config, "name_or_path", None)
    return ModelSource(
        name=name or loaded_by or type(network).__name__,
        feature=find_feature_rule(model).description,
        revision=revision,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        weights=hash_weights(network),
        precision=describe_precision(network, precision),
    )


def describe_classifier(model: EvaluatedModel, weights: str | None = None) -> ModelSource:
    """What a result says about a classifier; `weights` is the hash of its weights, where they are hashed already."""
    network = model.network
    count = sum(parameter.numel() for parameter in network.parameters())
    weights = hash_weights(network) if weights is None else weights
    return ModelSource(model.name, "classifier", model.revision, count, weights, describe_precision(network))


def describe_precision(network: nn.Module, precision: Precision = "fp32") -> str:
    """Types of a network's weights, and of its arithmetic where that is another."""
    types = dict.fromkeys(each.dtype for each in network.parameters() if each.is_floating_point())
    words = " and ".join(str(each).removeprefix("torch.") for each in types)
    autocast = AUTOCAST_TYPES[precision]
    return words if autocast is None else f"{words}, autocast to {str(autocast).removeprefix('torch.')}"


def save_split(split: MeasuredSplit, model: ModelSource, path: Path) -> Path:
    """Write the features of a split with their origin, whole or not at all."""
    facts = {
        "source": asdict(split.source),
        "class_names": split.class_names,
        "skipped_files": split.skipped_files,
        "preprocessing": split.preprocessing,
        "model": asdict(model),
        "real": None if split.real is None else split.real.to_dict(),
    }
    text = json.dumps(facts, ensure_ascii=False)
    return replace(split.features, facts={**split.features.facts, _KEY: text}).save(path)


def load_split(path: Path) -> tuple[MeasuredSplit, ModelSource]:
    """Read what :func:`save_split` wrote."""
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist: write it with --save-features first")
    features = Features.load(path)
    if _KEY not in features.facts:
        raise ValueError(
            f"{str(path)!r} does not say which split and model its features are of: write it with --save-features"
        )
    facts = json.loads(features.facts[_KEY])
    source = DataSource(**facts["source"])
    real = RealLabels.from_dict(facts["real"]) if facts.get("real") else None
    if "real" not in facts and source.name in VALIDATED_BY_IMAGENET and source.split == "test":
        real = RealLabels(
            None, f"no ReaL accuracy: {str(path)!r} does not have it; compute it again with --save-features"
        )
    split = MeasuredSplit(
        features,
        source,
        tuple(facts["class_names"]),
        tuple(facts["skipped_files"]),
        facts["preprocessing"],
        real,
    )
    return split, ModelSource(**facts["model"])


def check_same_model(train: ModelSource, test: ModelSource) -> None:
    """Check that two splits were measured by one model."""
    if train != test:
        raise ValueError(
            f"the training features are of {train.name} ({train.feature}), the test features of {test.name} "
            f"({test.feature}): neighbours need one model; compute both again with --save-features"
        )


def find_standard_errors(metrics: Mapping[str, float], count: int, real: RealLabels | None = None) -> dict[str, float]:
    """Of the accuracies among metrics, in percentage points: shares of `count` images, or of those ReaL counts."""
    counts = {name: real.count if real and REAL in name else count for name in metrics if name.startswith("top")}
    return {name: standard_error(metrics[name], images) for name, images in counts.items()}


def result_of_splits(
    bank: MeasuredSplit,
    queries: MeasuredSplit,
    model: ModelSource,
    metrics: Mapping[str, float],
    protocol: ProtocolFacts,
    device: torch.device | str,
    started: float,
    notes: Sequence[str] = (),
    **more: Any,
) -> EvaluationResult:
    """What was learned from the features of one split and measured on those of another.

    Args:
        bank: What was learned from.
        queries: What was measured.
        model: What both are features of.
        metrics: In percent.
        protocol: How it was measured.
        device: Where.
        started: `time.perf_counter()` at the beginning.
        notes: What a reader has to know beside ReaL's.
        **more: Further fields of the result.
    """
    return EvaluationResult(
        metrics=metrics,
        model=model,
        dataset=queries.source,
        training_dataset=bank.source,
        protocol=protocol,
        preprocessing=queries.preprocessing,
        device=device_name(device),
        duration_s=time.perf_counter() - started,
        skipped_files=(*bank.skipped_files, *queries.skipped_files),
        notes=(*notes, *(() if queries.real is None else (queries.real.note,))),
        **more,
    )


def format_metrics(metrics: Mapping[str, float], width: int, errors: Mapping[str, float] | None = None) -> str:
    """A line for each metric in percent with its standard error where there is one, the names as wide as given."""
    known = errors or {}
    lines = (
        f"  {name:<{width}} {value:6.2f} %" + (f" ± {known[name]:.2f}" if name in known else "")
        for name, value in metrics.items()
    )
    return "\n".join([*lines, *(f"  {note}" for note in explain_standard_errors(known.values()))])


def save_each(results: Iterable[EvaluationResult], output: Path | None) -> EvaluationResult:
    """Write each result as it comes, where there is an output, and give the last one."""
    result = None
    for result in results:
        if output is not None:
            result.save(output)
    assert result is not None
    return result
