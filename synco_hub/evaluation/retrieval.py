"""Image retrieval on revisited Oxford and Paris: rank the database by cosine similarity to each query.

An image keeps its aspect ratio and resolution and is seen at several scales; it becomes one unit vector.

Published for orientation (remembered, not checked): DINO ViT-S/16 trained on ImageNet reaches 41.8 % (medium) and
13.7 % (hard) mAP on revisited Oxford, 63.1 % and 34.4 % on revisited Paris, without cropping its queries.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from synco_hub.data import decode_rgb
from synco_hub.data.revisited_retrieval import SETUPS, RetrievalData, load_retrieval_data
from synco_hub.errors import FlagError
from synco_hub.evaluation.dense_features import compute_any_size_features, cut_to_patches, patch_sides, pixel_values
from synco_hub.evaluation.leaks import PictureFiles
from synco_hub.evaluation.measurement import EvaluatedModel, format_metrics, model_source, save_each
from synco_hub.evaluation.resume import ResumableFolder, hash_files, identify_model
from synco_hub.feature_pooling import FeatureRule, find_feature_network, find_feature_rule
from synco_hub.features import check_finite, eval_mode
from synco_hub.metrics import revisited_average_precision, revisited_precision_at_k
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name
from synco_hub.settings import DatasetChoice, RetrievalSettings

PRECISION_KS = (1, 5, 10)
# Images of one file on disk: what a killed run has to compute again at most.
BLOCK = 128


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: RetrievalSettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a backbone on a benchmark's folder; features are kept in `settings.save_features`, if that is given."""
    if data.data_dir is None:
        raise FlagError("--data-dir is missing: give the folder with roxford5k/ or rparis6k/.")
    benchmark = load_retrieval_data(Path(data.data_dir), data.dataset)
    files = dict.fromkeys([*benchmark.database, *(query.file for query in benchmark.queries)])
    model.check_leak(PictureFiles(benchmark.name, [(file.name, file) for file in files]), settings.progress)
    return save_each([evaluate_retrieval(model, benchmark, settings)], output)


def format_table(result: EvaluationResult) -> str:
    """How many images, and the means of each setup."""
    about = f"{result.dataset.name}: {result.dataset.description}"
    return f"{about}\n{format_metrics(result.metrics, 12)}"


@dataclass(frozen=True)
class RetrievalInput:
    """How an image becomes the network's input.

    Attributes:
        max_side: Longest side in pixels; larger images are reduced, none is enlarged. 1024 is that of the benchmarks'
            own files, so that they stay as they are. None for no limit.
        scales: Factors at which the image is seen; the features of all are averaged.
        crop_queries: Whether only the box of a query is seen (the official protocol; DINO's script sees all of it).
        mean: Of each channel.
        std: Of each channel.
    """

    max_side: int | None = 1024
    scales: tuple[float, ...] = (1.0, 1 / math.sqrt(2), 0.5)
    crop_queries: bool = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max_side={self.max_side} is not positive: the benchmark's images have 1024")
        if not self.scales or not all(0 < scale <= 4 for scale in self.scales):
            raise ValueError(f"scales={self.scales}: give at least one factor in (0, 4], such as 1 and 0.5")


def prepare_retrieval_input(model: EvaluatedModel, settings: RetrievalSettings) -> RetrievalInput:
    """The settings with the model's own normalisation."""
    scales = tuple(settings.scale or ()) or RetrievalInput.scales
    return RetrievalInput(settings.max_side, scales, settings.crop_queries, model.mean, model.std)


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
    model: EvaluatedModel, data: RetrievalData, settings: RetrievalSettings | None = None
) -> EvaluationResult:
    """Measure a frozen model on a benchmark that is open already.

    Returns:
        mAP and mP@1, 5, 10 under the easy, medium and hard setup, in percent.
    """
    started = time.perf_counter()
    settings = settings or RetrievalSettings()
    form = prepare_retrieval_input(model, settings)
    source = model_source(model.network, model.name, model.revision)
    identity = {
        **{"data": data.name, "ground_truth": data.fingerprint, "input": asdict(form)},
        **identify_model(find_feature_network(model.network)),
        **{"rule": source.feature, "dtype": "None"},
    }
    folder = ResumableFolder(None if settings.save_features is None else Path(settings.save_features), identity)
    queries = [SearchedImage(query.file, query.box) for query in data.queries]
    database = [SearchedImage(file) for file in data.database]
    query_vectors = compute_retrieval_vectors(model.network, queries, form, settings, "queries", folder)
    database_vectors = compute_retrieval_vectors(model.network, database, form, settings, "database", folder)
    scores = score_retrieval(query_vectors @ database_vectors.T, data)
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


def score_retrieval(similarities: Tensor, data: RetrievalData) -> RetrievalScores:
    """Numbers of all setups that have at least one query with a positive.

    Args:
        similarities: Shape: (queries, database images).
        data: The benchmark.
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


@dataclass(frozen=True)
class SearchedImage:
    """A file, and the box of it that is seen; None for all of it."""

    file: Path
    box: tuple[float, float, float, float] | None = None


def compute_retrieval_vectors(
    model: nn.Module,
    images: Sequence[SearchedImage],
    form: RetrievalInput,
    settings: RetrievalSettings,
    title: str,
    folder: ResumableFolder,
) -> Tensor:
    """Compute the unit vector of every image, one image a forward pass.

    Returns:
        Float32, unit norm, on the CPU. Shape: (images, dim).
    """
    parts = []
    with (
        eval_mode(find_feature_network(model), settings.device) as network,
        tqdm(total=len(images), desc=title, unit="img", disable=not settings.progress) as bar,
    ):
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK]
            part = f"{title}-{start:06d}.safetensors"
            contents = "" if folder.path is None else hash_files([image.file for image in block])
            kept = folder.load_tensors(part, contents)
            if kept is not None:
                vectors = kept["vectors"]
                bar.update(len(block))
            else:
                vectors = _computed(network, find_feature_rule(model), block, form, settings, bar)
                check_finite(vectors, torch.arange(start, start + len(block)))
                vectors = F.normalize(vectors, dim=1)
                folder.save_tensors(part, contents, {"vectors": vectors})
            parts.append(vectors)
    return torch.cat(parts)


def compute_multi_scale_features(
    network: nn.Module, pixels: Tensor, rule: FeatureRule, scales: Sequence[float]
) -> Tensor:
    """Mean of the features at several scales.

    Args:
        network: What :func:`synco_hub.feature_pooling.find_feature_network` gave.
        pixels: Normalised. Shape: (1, channels, height, width).
        rule: Which feature.
        scales: Factors; at 1 the pixels stay as they are.

    Returns:
        Not normalised. Shape: (1, dim).

    Source: the multi-scale features of DINO's retrieval script.
    """
    sides = patch_sides(network)
    total = None
    for scale in scales:
        scaled = pixels
        if scale != 1:
            size = [max(math.floor(side * scale), 1) for side in pixels.shape[-2:]]
            scaled = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        features = compute_any_size_features(network, cut_to_patches(scaled, sides), rule).float()
        total = features if total is None else total + features
    assert total is not None
    return total / len(scales)


def crop_seen_image(image: SearchedImage, form: RetrievalInput) -> Image.Image:
    """Decode an image, take its box, reduce it by the factor that brings the *whole* image to the longest side.

    So a query's box keeps the scale of the database images, whatever part of its image it is.
    """
    picture = decode_rgb(image.file)
    factor = 1.0 if form.max_side is None else min(form.max_side / max(picture.size), 1.0)
    if image.box is not None and form.crop_queries:
        left, top, right, bottom = (round(side) for side in image.box)
        inside = max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height)
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise ValueError(
                f"{image.file.name} is {picture.width}x{picture.height}, the query's box {image.box} lies outside: "
                "use the benchmark's own image files"
            )
        picture = picture.crop(inside)
    if factor == 1.0:
        return picture
    size = max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
    return picture.resize(size, Image.Resampling.LANCZOS)


class _SeenImages(Dataset[Tensor]):
    def __init__(self, images: Sequence[SearchedImage], form: RetrievalInput) -> None:
        self._images, self._form = images, form

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return pixel_values(crop_seen_image(self._images[index], self._form), self._form.mean, self._form.std)


def _computed(
    network: nn.Module,
    rule: FeatureRule,
    images: Sequence[SearchedImage],
    form: RetrievalInput,
    settings: RetrievalSettings,
    bar: Any,
) -> Tensor:
    device = next(network.parameters()).device
    rows = []
    loader = DataLoader(_SeenImages(images, form), batch_size=None, num_workers=settings.num_workers)
    for pixels in cast("Any", loader):
        with torch.inference_mode():
            rows.append(compute_multi_scale_features(network, pixels.to(device), rule, form.scales).cpu())
        bar.update(1)
    return torch.cat(rows)
