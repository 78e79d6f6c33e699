"""Detection of images of unknown classes (Table 13, ImageNet-O): scores of both sets and what they tell apart.

Source: paper, section 8.2; Hendrycks et al., "Natural adversarial examples" (2021): logits of the 200 classes of
ImageNet-O only, in-distribution are the 10,000 validation images of these classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from synco_hub.data import BadImageLedger, EvaluationDataset
from synco_hub.evaluation.batch_store import weights_fingerprint
from synco_hub.evaluation.confidence_scores import maximum_softmax_log_odds, negative_energy, neighbour_similarity
from synco_hub.evaluation.detection_metrics import detection_metrics, explanation
from synco_hub.evaluation.measured_split import preprocessing
from synco_hub.feature_adapter import feature_network, feature_rule, image_features
from synco_hub.features import ExtractionSettings
from synco_hub.frozen import frozen
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts, device_name

DEFAULT_NEIGHBOUR = 50


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


@dataclass(frozen=True)
class Outputs:
    """What a classifier gives for a set.

    Attributes:
        logits: Shape: (images, num_classes).
        features: Shape: (images, dim), empty if they are not needed.
        skipped: Names of the unreadable images.
    """

    logits: Tensor
    features: Tensor
    skipped: tuple[str, ...]


def evaluate_out_of_distribution(
    classifier: nn.Module, sets: DetectionSets, model_name: str, settings: ExtractionSettings | None = None
) -> EvaluationResult:
    """Measure how well a classifier tells unknown images from known ones.

    Args:
        classifier: Gives ``logits``.
        sets: The images.
        model_name: What the result calls it.
        settings: Batch size, workers, device, progress.

    Returns:
        For each score (``msp``, ``energy``, ``knn``; with ``_all_classes`` where ``sets.columns`` keeps some): see
        :func:`synco_hub.evaluation.detection_metrics.detection_metrics`.

    Raises:
        ValueError: If a set is empty, a score is NaN, or the bank has fewer images than the neighbour's number.
    """
    started = time.perf_counter()
    settings = settings or ExtractionSettings()
    with frozen(classifier, settings.device) as network:
        device = device_name(next(network.parameters()).device)
        wants_features = sets.bank is not None
        known = classifier_outputs(network, sets.known, settings, "in-distribution", wants_features)
        unknown = classifier_outputs(network, sets.unknown, settings, "out-of-distribution", wants_features)
        bank = classifier_outputs(network, sets.bank, settings, "bank", True) if sets.bank is not None else None
    scores = confidence_scores(known, unknown, bank, sets.columns, sets.neighbour)
    metrics: dict[str, float] = {}
    notes: list[str] = []
    for name, (inside, outside) in scores.items():
        metrics |= detection_metrics(name, inside, outside)
        if note := explanation(name, inside, outside):
            notes.append(note)
    if bank is None:
        notes.append("no neighbour score: give training images of the known classes with --bank-dataset")
    about, inside_about = sets.unknown.images.description, sets.known.images.description
    return EvaluationResult(
        metrics=metrics,
        model=ModelSource(
            model_name, "classifier", weights_fingerprint(classifier), sum(p.numel() for p in classifier.parameters())
        ),
        dataset=DataSource(about.name, about.split, len(unknown.logits), about.fingerprint, about.source),
        protocol=ProtocolFacts(sets.protocol, _facts(sets, len(known.logits))),
        training_dataset=DataSource(
            inside_about.name,
            inside_about.split,
            len(known.logits),
            inside_about.fingerprint,
            f"the in-distribution images: {inside_about.source}; {inside_about.split_rule}",
            inside_about.num_classes,
        ),
        preprocessing=preprocessing(sets.known),
        device=device,
        duration_s=time.perf_counter() - started,
        skipped_files=(*known.skipped, *unknown.skipped, *(bank.skipped if bank else ())),
        notes=tuple(notes),
    )


def confidence_scores(
    known: Outputs, unknown: Outputs, bank: Outputs | None, columns: Tensor | None, neighbour: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Every score of known and of unknown images.

    Args:
        known: In-distribution.
        unknown: Out-of-distribution.
        bank: For the neighbour score; None leaves it out.
        columns: Outputs that the first scores keep; None keeps all.
        neighbour: Which neighbour counts.
    """
    scores: dict[str, tuple[Tensor, Tensor]] = {}
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


def classifier_outputs(
    network: nn.Module, dataset: EvaluationDataset, settings: ExtractionSettings, title: str, with_features: bool
) -> Outputs:
    """Logits, and features if wanted, of every readable image.

    Args:
        network: In eval mode, gives ``logits``.
        dataset: Images, with or without labels.
        settings: Batch size, workers, progress.
        title: What the progress bar says.
        with_features: Whether features are needed.

    Raises:
        ValueError: If there is no readable image.
    """
    ledger = BadImageLedger(dataset, settings.max_bad_fraction)
    device = next(network.parameters()).device
    backbone = feature_network(network)
    if backbone is network:
        backbone = getattr(network, "backbone", network)  # a linear head on a foreign backbone
    rule: Any = feature_rule(backbone) if with_features else None
    logits: list[Tensor] = []
    features: list[Tensor] = []
    loader: DataLoader[Any] = DataLoader(dataset, settings.batch_size, num_workers=settings.num_workers)
    with tqdm(total=len(dataset), desc=title, unit="img", disable=not settings.progress) as bar:
        for batch in loader:
            ledger.record(batch["bad_index"])
            good = batch["bad_index"] < 0
            pixels = batch["pixel_values"][good].to(device)
            if len(pixels):
                with torch.inference_mode():
                    logits.append(network(pixels).logits.float().cpu())
                    if with_features:
                        features.append(image_features(feature_network(backbone), pixels, rule).float().cpu())
            bar.update(len(good))
    if not logits:
        raise ValueError(f"{title}: no image could be read; check the folder")
    empty = torch.empty(0, 0)
    return Outputs(torch.cat(logits), torch.cat(features) if features else empty, tuple(ledger.names()))


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
