"""Accuracy of a trained classifier on centre crops: top-1, top-5 and mean per class, or mAP for several classes.

The targets and scores are those that linear probing and fine-tuning measure by too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from synco_hub.data import EvaluationDataset, ImageDataset, UnreadableImages
from synco_hub.data.class_labels import is_named, number_by_head
from synco_hub.data.real_labels import RealLabels, find_real_labels
from synco_hub.errors import DoesNotApplyError
from synco_hub.evaluation.measurement import (
    REAL,
    EvaluatedModel,
    data_source,
    describe_classifier,
    format_metrics,
    open_split,
    preprocessing,
    save_each,
)
from synco_hub.features import eval_mode
from synco_hub.metrics import (
    average_precision,
    hits_any_target,
    mean_per_class_share,
    target_ranks,
    voc_average_precision_11_point,
)
from synco_hub.metrics.accuracy import mean_per_class_error, standard_error
from synco_hub.results import EvaluationResult, ProtocolFacts, device_name
from synco_hub.settings import ClassificationSettings, DatasetChoice, ForwardSettings


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: ClassificationSettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a classifier on the test split; see `synco_hub.protocols`."""
    return save_each([evaluate_classification(model, open_split(data, "test", model), settings)], output)


def format_table(result: EvaluationResult) -> str:
    """The metrics, a line each."""
    return format_metrics(result.metrics, 14, result.standard_errors)


def evaluate_classification(
    model: EvaluatedModel, dataset: EvaluationDataset, settings: ForwardSettings | None = None
) -> EvaluationResult:
    """Measure a classifier on images that are open already.

    Args:
        model: Gives ``logits`` (batch, num_classes) for images (batch, channels, height, width).
        dataset: Test images with the evaluation transform.
        settings: Batch size, workers, device, progress.

    Returns:
        ``top1``, ``top5`` (from 5 classes on) and ``mean_per_class``, on ImageNet's validation images ``top1_real``
        too; or the two mAP; in percent.
    """
    started = time.perf_counter()
    settings = settings or ForwardSettings()
    number_by_head(dataset.images, model.class_names)
    targets = classification_targets(dataset.images, "classification")
    check_same_classes(model.class_names, targets.class_names)
    scores = ClassificationScores(len(model.class_names), targets.multi_label)
    ledger = UnreadableImages(dataset, settings.max_bad_fraction)
    with eval_mode(model.network, settings.device) as network:
        device = next(network.parameters()).device
        loader: DataLoader[Any] = DataLoader(dataset, settings.batch_size, num_workers=settings.num_workers)
        with tqdm(total=len(dataset), desc="classification", unit="img", disable=not settings.progress) as bar:
            for batch in loader:
                ledger.record(batch["bad_index"])
                good = batch["bad_index"] < 0
                with torch.inference_mode():
                    logits = network(pixel_values=batch["pixel_values"].to(device)).logits.cpu()
                places = batch["index"][good]
                scores.add(logits[good], targets.values[places], targets.real_rows(places))
                bar.update(len(good))
    return EvaluationResult(
        metrics=scores.metrics(),
        standard_errors=scores.standard_errors(),
        model=describe_classifier(model),
        dataset=data_source(dataset.images.description, len(dataset) - len(ledger)),
        protocol=ProtocolFacts("classification", {"view": "centre crop", "ties": "lower class index first"}),
        preprocessing=preprocessing(dataset),
        device=device_name(device),
        duration_s=time.perf_counter() - started,
        skipped_files=tuple(ledger.names()),
        notes=targets.notes(ledger.indices),
    )


@dataclass(frozen=True)
class ClassificationTargets:
    """Targets of all images of a split, in its order.

    Attributes:
        values: Class indices, int64 (num_images,); or multi-hot, float32 (num_images, num_classes): 1 present,
            0 absent, -1 neither (VOC's "difficult").
        class_names: One name for each class.
        real: Of ImageNet's validation images, see :mod:`synco_hub.data.real_labels`.
    """

    values: Tensor
    class_names: tuple[str, ...]
    real: RealLabels | None = None

    def take(self, indices: Tensor) -> ClassificationTargets:
        """Those of some images, by their positions."""
        real = None if self.real is None else self.real.take(indices)
        return replace(self, values=self.values[indices], real=real)

    def real_rows(self, indices: Tensor) -> Tensor | None:
        """Every right class of some images, padded by -1, where ReaL knows them. Shape: (batch, most)."""
        return None if self.real is None else self.real.take(indices).rows

    def notes(self, skipped: Sequence[int] = ()) -> tuple[str, ...]:
        """What a reader of the numbers has to know of ReaL; the images at some positions could not be read."""
        if self.real is None:
            return ()
        read = torch.ones(len(self.values), dtype=torch.bool)
        read[list(skipped)] = False
        return (self.real.take(read).note,)

    @property
    def multi_label(self) -> bool:
        """Whether an image can have several classes."""
        return self.values.ndim == 2

    @property
    def primary_metric(self) -> str:
        """The metric that learning rates and epochs are compared by."""
        return "map_11_point" if self.multi_label else "top1"


def classification_targets(images: ImageDataset, purpose: str) -> ClassificationTargets:
    """Read the targets of a split; a data set with an attribute ``multi_hot`` has any number of classes an image."""
    if len(images) == 0:
        raise ValueError(
            f"the split {images.description.split!r} of {images.description.name} is empty: {purpose} needs images; "
            "check the folder or the split"
        )
    names = tuple(images.class_names)
    multi_hot: Any = getattr(images, "multi_hot", None)
    if multi_hot is None:
        images.require_labels(purpose)
        return ClassificationTargets(
            torch.as_tensor(images.labels, dtype=torch.int64), names, find_real_labels(images)
        )
    values = torch.as_tensor(multi_hot, dtype=torch.float32)
    if values.shape != (len(images), len(names)):
        raise ValueError(
            f"multi_hot of {images.description.name} has the shape {tuple(values.shape)}: give one row for each of "
            f"{len(images)} images and one column for each of {len(names)} classes"
        )
    return ClassificationTargets(values, names)


def check_same_classes(head: tuple[str, ...], data: tuple[str, ...], whose: str = "head") -> None:
    """Check that a head was made for the classes of a data set."""
    if len(head) != len(data):
        raise DoesNotApplyError(
            f"the {whose} has {len(head)} classes, the data set {len(data)}: their outputs cannot be compared; give "
            "the data set it was trained on, or train a new head (`synco-hub linear-probe`)"
        )
    if not is_named(head):
        return
    for label, (ours, theirs) in enumerate(zip(head, data, strict=True)):
        if ours != theirs:
            raise DoesNotApplyError(
                f"class {label} is {ours!r} in the {whose} and {theirs!r} in the data set: labels would not mean the "
                "same; give the data set it was trained on"
            )


class ClassificationScores:
    """Collects what the metrics need: ranks for one class an image (a number each), scores for several classes."""

    def __init__(self, num_classes: int, multi_label: bool) -> None:
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.kept: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.real: list[Tensor] = []

    def add(self, scores: Tensor, targets: Tensor, real: Tensor | None = None) -> None:
        """Take a batch.

        Args:
            scores: Shape: (batch, num_classes).
            targets: Class indices (batch,), or multi-hot (batch, num_classes) with -1 for cells that do not count.
            real: Every right class of each image, padded by -1; rows without one do not count. Shape: (batch, most).
        """
        if len(targets) == 0:
            return
        scores = scores.float()
        self.kept.append((scores if self.multi_label else target_ranks(scores, targets)).cpu())
        self.targets.append(targets.cpu())
        if real is not None:
            counts = real[:, 0] >= 0
            self.real.append(hits_any_target(scores, real.to(scores.device)).cpu()[counts])

    def take_all_of(self, other: ClassificationScores) -> None:
        """Take the batches that another one took."""
        self.kept += other.kept
        self.targets += other.targets
        self.real += other.real

    def metrics(self) -> dict[str, float]:
        """Metrics in percent."""
        if not self.kept:
            raise ValueError("no image was classified: an accuracy needs at least one; check the split")
        kept, targets = torch.cat(self.kept), torch.cat(self.targets)
        if self.multi_label:
            return {
                "map_11_point": 100.0 * voc_average_precision_11_point(kept, targets),
                "map_integral": 100.0 * average_precision(kept, targets),
            }
        guesses = (1, 5) if self.num_classes >= 5 else (1,)
        shares = {f"top{guess}": 100.0 * int((kept < guess).sum()) / len(kept) for guess in guesses}
        if count := sum(map(len, self.real)):
            shares[f"top1{REAL}"] = 100.0 * sum(int(each.sum()) for each in self.real) / count
        return {**shares, "mean_per_class": 100.0 * mean_per_class_share(kept == 0, targets, self.num_classes)}

    def standard_errors(self) -> dict[str, float]:
        """Of the metrics that are accuracies, in percentage points."""
        if self.multi_label:
            return {}
        kept, targets = torch.cat(self.kept), torch.cat(self.targets)
        counted = sum(map(len, self.real))
        errors = {
            name: standard_error(value, counted if REAL in name else len(kept))
            for name, value in self.metrics().items()
            if name.startswith("top")
        }
        return {**errors, "mean_per_class": mean_per_class_error(kept == 0, targets, self.num_classes)}
