"""Accuracy of a trained classifier on centre crops: top-1, top-5 and mean per class, or mAP for several classes."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from synco_hub.data import EvaluationDataset, UnreadableImages
from synco_hub.evaluation.classification_scores import ClassificationScores
from synco_hub.evaluation.classification_targets import check_same_classes, classification_targets
from synco_hub.evaluation.measurement.measured_split import preprocessing
from synco_hub.features import ExtractionSettings
from synco_hub.frozen import frozen
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts, device_name


def evaluate_classification(
    classifier: nn.Module,
    class_names: tuple[str, ...],
    dataset: EvaluationDataset,
    model_name: str,
    settings: ExtractionSettings | None = None,
) -> EvaluationResult:
    """Measure a classifier.

    Args:
        classifier: Takes images (batch, channels, height, width) and gives ``logits`` (batch, num_classes).
        class_names: Its classes, in the order of its logits.
        dataset: Test images with the evaluation transform.
        model_name: What the result calls the model.
        settings: Batch size, workers, device, progress.

    Returns:
        ``top1``, ``top5`` (from 5 classes on) and ``mean_per_class``; or the two mAP; in percent.

    Raises:
        ValueError: If the split is empty or unlabelled, the classes are not the classifier's, a score is NaN, or too
            many images are unreadable.
    """
    started = time.perf_counter()
    settings = settings or ExtractionSettings()
    targets = classification_targets(dataset.images, "classification")
    check_same_classes(class_names, targets.class_names)
    scores = ClassificationScores(len(class_names), targets.multi_label)
    ledger = UnreadableImages(dataset, settings.max_bad_fraction)
    with frozen(classifier, settings.device) as network:
        device = next(network.parameters()).device
        loader: DataLoader[Any] = DataLoader(dataset, settings.batch_size, num_workers=settings.num_workers)
        with tqdm(total=len(dataset), desc="classification", unit="img", disable=not settings.progress) as bar:
            for batch in loader:
                ledger.record(batch["bad_index"])
                good = batch["bad_index"] < 0
                with torch.inference_mode():
                    logits = network(batch["pixel_values"].to(device)).logits.cpu()
                scores.add(logits[good], targets.values[batch["index"][good]])
                bar.update(len(good))
    about = dataset.images.description
    return EvaluationResult(
        metrics=scores.metrics(),
        model=ModelSource(model_name, "classifier", None, sum(p.numel() for p in classifier.parameters())),
        dataset=DataSource(
            about.name,
            about.split,
            len(dataset) - len(ledger),
            about.fingerprint,
            f"{about.source}; {about.split_rule}",
            about.num_classes,
        ),
        protocol=ProtocolFacts("classification", {"view": "centre crop", "ties": "lower class index first"}),
        preprocessing=preprocessing(dataset),
        device=device_name(device),
        duration_s=time.perf_counter() - started,
        skipped_files=tuple(ledger.names()),
    )
