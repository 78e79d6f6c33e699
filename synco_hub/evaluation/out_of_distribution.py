"""Detection of images of unknown classes (Table 13, ImageNet-O): scores of both sets and what they tell apart.

Source: paper, section 8.2; Hendrycks et al., "Natural adversarial examples" (2021): logits of the 200 classes of
ImageNet-O only, in-distribution are the 10,000 validation images of these classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from synco_hub.data import EvaluationDataset, ImageDataset, UnreadableImages
from synco_hub.data.catalog.loading import find_set_folder, load_known_images
from synco_hub.data.class_labels import find_class_columns, number_by_head
from synco_hub.evaluation.classification import check_same_classes
from synco_hub.evaluation.confidence_scores import (
    check_neighbour,
    detection_metrics,
    explanation,
    maximum_softmax_log_odds,
    negative_energy,
    neighbour_similarity,
)
from synco_hub.evaluation.measurement import (
    EvaluatedModel,
    data_source,
    describe_classifier,
    open_split,
    preprocessing,
    save_each,
)
from synco_hub.evaluation.resume import ResumableFolder, hash_images, identify_model
from synco_hub.feature_pooling import compute_image_features, find_feature_network, find_feature_rule
from synco_hub.features import eval_mode
from synco_hub.output_paths import check_output_folder
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name
from synco_hub.settings import DatasetChoice, ForwardSettings, OutOfDistributionSettings

# Images of one file on disk: what a killed run has to compute again at most.
BLOCK = 2048
LOGITS, FEATURES = "logits", "features"
_INDICES = "indices"
# Of the known and of the unknown images, by the score's name.
Scores = dict[str, tuple[Tensor, Tensor]]


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: OutOfDistributionSettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a classifier on ImageNet-O, or on two data sets; what it gives for images is kept beside the result."""
    if (settings.in_dataset is None) != (settings.out_dataset is None) or (settings.in_dataset is None) == (
        data.data_dir is None
    ):
        raise ValueError("give --data-dir for ImageNet-O, or --in-dataset together with --out-dataset.")
    folder = None if output is None else output.with_name(f"{output.stem}.outputs")
    if folder is not None:
        check_output_folder(folder, "--output")
    sets = _open_imagenet_o(model, data, settings) if data.data_dir is not None else _pair(model, data, settings)
    return save_each([evaluate_out_of_distribution(model, sets, settings, folder)], output)


def format_table(result: EvaluationResult) -> str:
    """How many images of both kinds, and every rate."""
    known, unknown = int(result.protocol.parameters["in-distribution images"]), result.dataset.count
    shares = [100 * each / (known + unknown) for each in (unknown, known)]
    titles = ("FPR95", "AUROC", "AUPR", "FPR95*", "AUPR*", "tied")
    kinds = ("fpr95", "auroc", "aupr", "fpr95_known_positive", "aupr_known_positive", "tied_share")
    lines = [f"{unknown} unknown images, {known} known ones; in percent"]
    lines.append(f"  {'score':<20}" + "".join(f"{title:>9}" for title in titles))
    for score in (name.removeprefix("auroc_") for name in result.metrics if name.startswith("auroc_")):
        lines.append(f"  {score:<20}" + "".join(f"{result.metrics[f'{kind}_{score}']:9.2f}" for kind in kinds))
    guessing = ("95", "50", f"{shares[0]:.2f}", "95", f"{shares[1]:.2f}", "")
    lines.append(f"  {'by guessing':<20}" + "".join(f"{text:>9}" for text in guessing))
    lines += [
        "  FPR95: known images taken for unknown by the threshold that finds 95 % of the unknown ones.",
        "  AUPR: unknown images are the positives. *: known images are. tied: images whose score another has too.",
    ]
    return "\n".join(lines)


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
    neighbour: int = OutOfDistributionSettings.neighbour
    columns: Tensor | None = None
    protocol: str = "ood_pair"


def _open_imagenet_o(model: EvaluatedModel, data: DatasetChoice, settings: OutOfDistributionSettings) -> DetectionSets:
    data_dir = str(data.data_dir)
    find_set_folder("imagenet-o", data_dir)
    known = load_known_images(data_dir)
    model.check_leak(known)
    return DetectionSets(
        EvaluationDataset(known, model.transform),
        open_split(DatasetChoice("imagenet-o", data_dir), "test", model),
        None if settings.bank_dataset is None else open_split(DatasetChoice(settings.bank_dataset), "train", model),
        settings.neighbour,
        find_class_columns(model.class_names, "imagenet_o"),
        "ood",
    )


def _pair(model: EvaluatedModel, data: DatasetChoice, settings: OutOfDistributionSettings) -> DetectionSets:
    chosen = DatasetChoice(str(settings.in_dataset), split_seed=data.split_seed)
    known = open_split(chosen, "test", model)
    number_by_head(known.images, model.class_names)
    check_same_classes(model.class_names, tuple(known.images.class_names))
    unknown = _open_unknown_images(replace(chosen, dataset=str(settings.out_dataset)), model)
    bank = open_split(replace(chosen, dataset=settings.bank_dataset or chosen.dataset), "train", model)
    return DetectionSets(known, EvaluationDataset(unknown, model.transform), bank, min(settings.neighbour, len(bank)))


def _open_unknown_images(data: DatasetChoice, model: EvaluatedModel) -> ImageDataset:
    """All images of a folder at any depth, or the test split of a data set; labels are not used."""
    return open_split(data, "all" if Path(data.dataset).expanduser().is_dir() else "test", model).images


def evaluate_out_of_distribution(
    model: EvaluatedModel,
    sets: DetectionSets,
    settings: ForwardSettings | None = None,
    folder: Path | None = None,
) -> EvaluationResult:
    """Measure how well a classifier tells unknown images from known ones."""
    started = time.perf_counter()
    settings = settings or ForwardSettings()
    if sets.bank is not None:
        check_neighbour(sets.neighbour, len(sets.bank))  # before hours of forward passes
    identity = identify_model(model.network)
    facts = {**identity, "preprocessing": preprocessing(sets.known), "batch size": settings.batch_size}
    kept = ResumableFolder(folder, facts)
    with eval_mode(model.network, settings.device) as network:
        device = device_name(next(network.parameters()).device)
        outputs = ClassifierOutputs(network, settings, kept)
        wanted = (LOGITS,) if sets.bank is None else (LOGITS, FEATURES)
        known = outputs.of(sets.known, "in-distribution", wanted)
        unknown = outputs.of(sets.unknown, "out-of-distribution", wanted)
        bank = None if sets.bank is None else outputs.of(sets.bank, "bank", (FEATURES,))
    scores = score_both(known, unknown, bank, sets.columns, sets.neighbour)
    inside = data_source(sets.known.images.description, len(known.logits))
    about = sets.unknown.images.description
    return EvaluationResult(
        metrics=_metrics(scores),
        model=describe_classifier(model, identity["weights"]),
        dataset=DataSource(about.name, about.split, len(unknown.logits), about.fingerprint, about.source),
        protocol=ProtocolFacts(sets.protocol, _facts(sets, len(known.logits))),
        training_dataset=replace(inside, description=f"the in-distribution images: {inside.description}"),
        preprocessing=preprocessing(sets.known),
        device=device,
        duration_s=time.perf_counter() - started,
        skipped_files=(*known.skipped, *unknown.skipped, *(bank.skipped if bank else ())),
        notes=_notes(scores, with_bank=bank is not None),
    )


def score_both(
    known: Outputs, unknown: Outputs, bank: Outputs | None, columns: Tensor | None, neighbour: int
) -> Scores:
    """Every score of known and of unknown images; `columns` are the outputs that the first scores keep, None all."""
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


@dataclass(frozen=True)
class Outputs:
    """What a classifier gives for a set.

    Attributes:
        logits: Shape: (images, num_classes), empty if they were not asked for.
        features: Shape: (images, dim), empty if they were not asked for.
        skipped: Names of the unreadable images.
    """

    logits: Tensor
    features: Tensor
    skipped: tuple[str, ...] = ()


class ClassifierOutputs:
    """Logits and features of the readable images of data sets, block by block: finished blocks survive a stop.

    Blocks are whole batches, and a batch holds the same images in every run: so are the last bits of its numbers.
    """

    def __init__(self, network: nn.Module, settings: ForwardSettings, folder: ResumableFolder | None = None) -> None:
        self._network, self._settings, self._folder = network, settings, folder or ResumableFolder(None, {})

    def of(self, dataset: EvaluationDataset, title: str, wanted: Sequence[str] = (LOGITS,)) -> Outputs:
        """Compute, or take, what is wanted of every readable image."""
        blocks = self._blocks(len(dataset))
        kept = [self._kept(_part(title, number), dataset, block, wanted) for number, block in enumerate(blocks)]
        missing = [batch for block, values in zip(blocks, kept, strict=True) if values is None for batch in block]
        workers = self._settings.num_workers if missing else 0
        loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=missing, num_workers=workers)
        ledger, fresh, parts = UnreadableImages(dataset, self._settings.max_bad_fraction), iter(loader), []
        with tqdm(total=len(dataset), desc=title, unit="img", disable=not self._settings.progress) as bar:
            for number, (block, values) in enumerate(zip(blocks, kept, strict=True)):
                if values is None:
                    # Before the measurement: images that change while it runs are others than those it names.
                    contents = hash_images(dataset.images, _join_parts(block)) if self._folder.path else ""
                    values = self._computed(fresh, block, wanted, (ledger, bar))
                    self._folder.save_tensors(_part(title, number), contents, values)
                else:
                    ledger.record(sorted(set(_join_parts(block)) - set(values[_INDICES].tolist())))
                    bar.update(len(_join_parts(block)))
                if len(values[_INDICES]):
                    parts.append(values)
        if not parts:
            raise ValueError(f"{title}: no image could be read; check the folder")
        found = {name: torch.cat([part[name] for part in parts]) for name in wanted}
        empty = torch.empty(0, 0)
        return Outputs(found.get(LOGITS, empty), found.get(FEATURES, empty), tuple(ledger.names()))

    def _blocks(self, count: int) -> list[list[list[int]]]:
        """Positions of the images, in batches, in blocks of batches."""
        size = self._settings.batch_size
        batches = [list(range(at, min(at + size, count))) for at in range(0, count, size)]
        per_block = math.ceil(BLOCK / size)
        return [batches[at : at + per_block] for at in range(0, len(batches), per_block)]

    def _computed(
        self,
        fresh: Iterator[Mapping[str, Tensor]],
        block: Sequence[Sequence[int]],
        wanted: Sequence[str],
        reports: tuple[UnreadableImages, Any],
    ) -> dict[str, Tensor]:
        ledger, bar = reports
        indices, rows = [torch.empty(0, dtype=torch.int64)], []
        for positions in block:
            batch = next(fresh)
            ledger.record(batch["bad_index"])
            good = batch["bad_index"] < 0
            if bool(good.any()):
                rows.append(self._forward(batch["pixel_values"][good], wanted))
                indices.append(batch["index"][good])
            bar.update(len(positions))
        found = {name: torch.cat([row[name] for row in rows]) for name in wanted} if rows else {}
        return {_INDICES: torch.cat(indices), **found}

    def _forward(self, pixels: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        pixels = pixels.to(next(self._network.parameters()).device)
        values: dict[str, Tensor] = {}
        with torch.inference_mode():
            if LOGITS in wanted:
                values[LOGITS] = self._network(pixel_values=pixels).logits.float().cpu()
            if FEATURES in wanted:
                backbone = find_feature_network(self._network)
                values[FEATURES] = compute_image_features(backbone, pixels, find_feature_rule(backbone)).float().cpu()
        return values

    def _kept(
        self, part: str, dataset: EvaluationDataset, block: Sequence[Sequence[int]], wanted: Sequence[str]
    ) -> dict[str, Tensor] | None:
        """A finished block of the same images with all that is wanted, None if there is none."""
        if not self._folder.has(part):
            return None
        values = self._folder.load_tensors(part, hash_images(dataset.images, _join_parts(block)))
        complete = values is not None and (len(values[_INDICES]) == 0 or set(wanted) <= set(values))
        return values if complete else None


def _part(title: str, number: int) -> str:
    return f"{title}/block-{number:06d}.safetensors"


def _join_parts(block: Sequence[Sequence[int]]) -> list[int]:
    return [position for batch in block for position in batch]
