"""Detection of images of unknown classes (Table 13, ImageNet-O): scores of both sets and what they tell apart.

Source: paper, section 8.2; Hendrycks et al., "Natural adversarial examples" (2021): logits of the 200 classes of
ImageNet-O only, in-distribution are the 10,000 validation images of these classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from synco_hub.data import EvaluationDataset
from synco_hub.evaluation.detection.classifier_outputs import FEATURES, LOGITS, ClassifierOutputs, Outputs
from synco_hub.evaluation.detection.confidence_scores import (
    check_neighbour,
    maximum_softmax_log_odds,
    negative_energy,
    neighbour_similarity,
)
from synco_hub.evaluation.detection.detection_metrics import detection_metrics, explanation
from synco_hub.evaluation.measurement.measured_split import classifier_source, data_source, preprocessing
from synco_hub.evaluation.measurement.model_identity import model_identity
from synco_hub.evaluation.measurement.resumable_folder import claim_folder
from synco_hub.features import ExtractionSettings
from synco_hub.frozen import frozen
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name

DEFAULT_NEIGHBOUR = 50
# Of the known and of the unknown images, by the score's name.
Scores = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DetectionSets:
    """The images of a detection.

    Attributes:
        known: In-distribution, not seen in training.
        unknown: Out-of-distribution.
        bank: Images of known classes for the neighbour score, usually of the training split; None leaves it out.
        neighbour: Which neighbour of the bank counts.
        columns: Outputs to keep, Shape: (kept,); None keeps all. All of them are measured too.
        protocol: ``ood`` for ImageNet-O, else ``ood_pair``.
    """

    known: EvaluationDataset
    unknown: EvaluationDataset
    bank: EvaluationDataset | None = None
    neighbour: int = DEFAULT_NEIGHBOUR
    columns: Tensor | None = None
    protocol: str = "ood_pair"


def evaluate_out_of_distribution(
    classifier: nn.Module,
    sets: DetectionSets,
    model_name: str,
    settings: ExtractionSettings | None = None,
    folder: Path | None = None,
) -> EvaluationResult:
    """Measure how well a classifier tells unknown images from known ones.

    Args:
        classifier: Gives ``logits``.
        sets: The images.
        model_name: What the result calls it.
        settings: Batch size, workers, device, progress.
        folder: Where what the classifier gives is kept, and taken from when it is of the same model, settings and
            images; an interrupted run goes on there.

    Returns:
        For each score (``msp``, ``energy``, ``knn``; with ``_all_classes`` where ``sets.columns`` keeps some): see
        :func:`synco_hub.evaluation.detection.detection_metrics.detection_metrics`.

    Raises:
        ValueError: If a set is empty, a score is NaN, the bank has fewer images than the neighbour's number, or the
            folder belongs to another measurement.
    """
    started = time.perf_counter()
    settings = settings or ExtractionSettings()
    if sets.bank is not None:
        check_neighbour(sets.neighbour, len(sets.bank))  # before hours of forward passes
    identity = model_identity(classifier)
    if folder is not None:
        facts = {**identity, "preprocessing": preprocessing(sets.known), "batch size": settings.batch_size}
        claim_folder(folder, facts)
    with frozen(classifier, settings.device) as network:
        device = device_name(next(network.parameters()).device)
        outputs = ClassifierOutputs(network, settings, folder)
        wanted = (LOGITS,) if sets.bank is None else (LOGITS, FEATURES)
        known = outputs.of(sets.known, "in-distribution", wanted)
        unknown = outputs.of(sets.unknown, "out-of-distribution", wanted)
        bank = None if sets.bank is None else outputs.of(sets.bank, "bank", (FEATURES,))
    scores = confidence_scores(known, unknown, bank, sets.columns, sets.neighbour)
    inside = data_source(sets.known.images.description, len(known.logits))
    about = sets.unknown.images.description
    return EvaluationResult(
        metrics=_metrics(scores),
        model=classifier_source(classifier, model_name, identity["weights"]),
        dataset=DataSource(about.name, about.split, len(unknown.logits), about.fingerprint, about.source),
        protocol=ProtocolFacts(sets.protocol, _facts(sets, len(known.logits))),
        training_dataset=replace(inside, description=f"the in-distribution images: {inside.description}"),
        preprocessing=preprocessing(sets.known),
        device=device,
        duration_s=time.perf_counter() - started,
        skipped_files=(*known.skipped, *unknown.skipped, *(bank.skipped if bank else ())),
        notes=_notes(scores, with_bank=bank is not None),
    )


def confidence_scores(
    known: Outputs, unknown: Outputs, bank: Outputs | None, columns: Tensor | None, neighbour: int
) -> Scores:
    """Every score of known and of unknown images.

    Args:
        known: In-distribution.
        unknown: Out-of-distribution.
        bank: For the neighbour score; None leaves it out.
        columns: Outputs that the first scores keep; None keeps all.
        neighbour: Which neighbour counts.
    """
    scores: Scores = {}
    views: list[tuple[str, Tensor | None]] = (
        [("", columns)] if columns is None else [("", columns), ("_all_classes", None)]
    )
    for ending, kept in views:
        inside, outside = (part.logits if kept is None else part.logits[:, kept] for part in (known, unknown))
        scores[f"msp{ending}"] = (maximum_softmax_log_odds(inside), maximum_softmax_log_odds(outside))
        scores[f"energy{ending}"] = (negative_energy(inside), negative_energy(outside))
    if bank is not None:
        inside, outside = (neighbour_similarity(part.features, bank.features, neighbour) for part in (known, unknown))
        scores["knn"] = (inside, outside)
    return scores


def _metrics(scores: Scores) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, (inside, outside) in scores.items():
        metrics |= detection_metrics(name, inside, outside)
    return metrics


def _notes(scores: Scores, with_bank: bool) -> tuple[str, ...]:
    notes = [note for name, (inside, outside) in scores.items() if (note := explanation(name, inside, outside))]
    if not with_bank:
        notes.append("no neighbour score: give training images of the known classes with --bank-dataset")
    return tuple(notes)


def _facts(sets: DetectionSets, known: int) -> dict[str, Any]:
    kept: Sequence[int] | str = "all" if sets.columns is None else sets.columns.tolist()
    return {
        "in-distribution images": known,
        "kept outputs": kept,
        "positives": "out-of-distribution images, score = minus confidence (Hendrycks et al.); *_known_positive: "
        "in-distribution images",
        "threshold": "recall nearest to 0.95, equal scores together",
        "arithmetic": "double precision, log odds of probabilities",
        "neighbour": sets.neighbour if sets.bank is not None else None,
    }
