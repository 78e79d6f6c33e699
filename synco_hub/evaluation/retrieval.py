"""Image retrieval on revisited Oxford and Paris: rank the database by cosine similarity to each query.

Published for orientation (remembered, not checked): DINO ViT-S/16 trained on ImageNet reaches 41.8 % (medium) and
13.7 % (hard) mAP on revisited Oxford, 63.1 % and 34.4 % on revisited Paris, without cropping its queries.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from synco_hub.data.revisited_retrieval import SETUPS, RetrievalData
from synco_hub.evaluation.dense.retrieval_features import RetrievalInput, SearchedImage, retrieval_vectors
from synco_hub.evaluation.measurement.measured_split import model_source
from synco_hub.evaluation.measurement.model_identity import model_identity
from synco_hub.evaluation.measurement.resumable_folder import claim_folder
from synco_hub.feature_adapter import feature_network
from synco_hub.features import ExtractionSettings
from synco_hub.metrics import revisited_average_precision, revisited_precision_at_k
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name

PRECISION_KS = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalScores:
    """Numbers of a ranking.

    Attributes:
        metrics: `map_<setup>` and `mp<k>_<setup>` in percent, for the setups that have a query with a positive.
        queries: How many queries count in each setup.
    """

    metrics: dict[str, float]
    queries: dict[str, int]


def evaluate_retrieval(
    model: nn.Module,
    data: RetrievalData,
    form: RetrievalInput | None = None,
    settings: ExtractionSettings | None = None,
    model_name: str | None = None,
    folder: Path | None = None,
) -> EvaluationResult:
    """Measure a frozen model.

    Args:
        model: Any model that :mod:`synco_hub.feature_adapter` knows and that takes images of any size; it stays as it
            is.
        data: The benchmark.
        form: How an image becomes the network's input.
        settings: Workers, device, arithmetic, progress.
        model_name: What the result calls the model; None for the name it was loaded by.
        folder: Where features are kept, and taken from when it holds those of the same model, settings and images.

    Returns:
        mAP and mP@1, 5, 10 under the easy, medium and hard setup, in percent.

    Raises:
        ValueError: If no query has a positive, the folder belongs to another measurement, or features are NaN.
    """
    started = time.perf_counter()
    form, settings = form or RetrievalInput(), settings or ExtractionSettings()
    source = model_source(model, model_name)
    if folder is not None:
        data_facts = {"data": data.name, "ground_truth": data.fingerprint, "input": asdict(form)}
        how = {"rule": source.feature, "dtype": str(settings.dtype)}
        claim_folder(folder, {**data_facts, **model_identity(feature_network(model)), **how})
    queries = [SearchedImage(query.file, query.box) for query in data.queries]
    database = [SearchedImage(file) for file in data.database]
    query_vectors = retrieval_vectors(model, queries, form, settings, "queries", folder)
    database_vectors = retrieval_vectors(model, database, form, settings, "database", folder)
    scores = retrieval_scores(query_vectors @ database_vectors.T, data)
    counts = f"{len(data.queries)} queries, {len(data.database)} database images"
    return EvaluationResult(
        metrics=scores.metrics,
        model=source,
        dataset=DataSource(data.name, "queries", len(data.queries), data.fingerprint, counts),
        protocol=_protocol(form, scores),
        preprocessing={
            "steps": "aspect ratio kept, remainder of the last patch cut off, positions interpolated",
            "mean": list(form.mean),
            "std": list(form.std),
        },
        device=device_name(settings.device or "cpu"),
        duration_s=time.perf_counter() - started,
        partial=not data.is_official,
        notes=_notes(data, scores),
    )


def retrieval_scores(similarities: Tensor, data: RetrievalData) -> RetrievalScores:
    """Numbers of all setups that have at least one query with a positive.

    Args:
        similarities: Shape: (queries, database images).
        data: The benchmark.

    Raises:
        ValueError: If no setup has one.
    """
    metrics, counted = {}, {}
    for setup in SETUPS:
        targets = data.targets(setup)
        counted[str(setup)] = int((targets == 1).any(dim=1).sum())
        if counted[setup] == 0:
            continue
        metrics[f"map_{setup}"] = 100 * revisited_average_precision(similarities, targets)
        for k in PRECISION_KS:
            metrics[f"mp{k}_{setup}"] = 100 * revisited_precision_at_k(similarities, targets, k)
    if not metrics:
        raise ValueError(f"no query of {data.name} has a positive image: check its ground truth")
    return RetrievalScores(metrics, counted)


def _protocol(form: RetrievalInput, scores: RetrievalScores) -> ProtocolFacts:
    return ProtocolFacts(
        "retrieval",
        {
            "similarity": "cosine",
            "average_precision": "revisited: trapezoids, junk removed, queries without positives skipped",
            "precision_ks": list(PRECISION_KS),
            "ties": "lower index first",
            "scales": list(form.scales),
            "scale_pooling": "mean of the features, then L2",
            "max_side": form.max_side,
            "crop_queries": form.crop_queries,
            "queries_counted": scores.queries,
        },
    )


def _notes(data: RetrievalData, scores: RetrievalScores) -> tuple[str, ...]:
    notes = [
        f"{len(data.queries) - count} of {len(data.queries)} queries have no positive in the {setup} setup: skipped"
        for setup, count in scores.queries.items()
        if count < len(data.queries)
    ]
    if not data.is_official:
        notes.append(f"{data.name} has other numbers of images or queries here than the published benchmark")
    return tuple(notes)
