"""Semantic segmentation from frozen patch features: a linear layer, or retrieval of the labels of training patches.

An image is resized so that its shorter side is `side` (bilinearly, antialiased) and seen as a whole, or by square
windows that slide over it; a patch's label is the share of each class among its pixels. Training patches, drawn from
all training images alike, are kept in a memory of stated size, from which either probe reads. Scores of patches are
interpolated bilinearly to the mask's own size, and the class with the highest is the prediction.

Source: linear: one 1x1 layer behind BatchNorm as DINOv2 (Oquab et al., 2023, section 7.4), whose training is on random
crops where this one's is on the patches of whole images; retrieval: HummingBird (Balažević et al., 2023), section 3.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from synco_hub.data.davis import write_mask
from synco_hub.data.masked_images import VOID, Mask, MaskedImages
from synco_hub.data.segmentation import load_masked_images
from synco_hub.evaluation.leaks import PictureFiles
from synco_hub.evaluation.measurement import EvaluatedModel, model_source, save_each
from synco_hub.evaluation.nearest_neighbours import nearest_neighbours
from synco_hub.evaluation.patch_labels import PatchLook, PatchMemory, Probe, label_pixels, score_patches
from synco_hub.feature_pooling import find_feature_network
from synco_hub.features import eval_mode
from synco_hub.metrics.mean_iou import class_iou, mean_iou, segmentation_confusion
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name
from synco_hub.settings import DatasetChoice, SegmentationSettings
from synco_hub.visualization.annotation_figures import MaskColumn, mask_figure
from synco_hub.visualization.figures import save_figure

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
BATCH_PATCHES = 4096
WEIGHT_DECAY = 1e-4
HELD_OUT_SHARE, HELD_OUT_AT_MOST = 0.1, 500


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: SegmentationSettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a model on images with masks; write masks and a figure where the settings say so."""
    train, test = load_masked_images(data, settings.num_classes, settings.zero_is_void, settings.progress)
    model.check_leak(PictureFiles(test.name, test.pictures()), settings.progress)
    result = evaluate_segmentation(model, train, test, settings)
    save_each([result], output)
    return result


def format_table(result: EvaluationResult) -> str:
    """What was measured at which size, mean IoU and accuracies, then the IoU of each class."""
    about, facts = result.dataset, result.protocol.parameters
    head = f"{facts['probe']} probe on {about.count} images of {about.name} ({about.split})"
    size = f"  shorter side {facts['side']} pixels (--side), patches of {max(facts['patch'])}"
    if facts.get("held_out_miou"):
        size += f"; learning rate {facts['learning_rate']:g}, best on {facts['held_out_images']} held-out images"
    width = max(map(len, result.metrics))
    return "\n".join([head, size, *(f"  {name:<{width}} {value:6.2f} %" for name, value in result.metrics.items())])


def evaluate_segmentation(
    model: EvaluatedModel, train: MaskedImages, test: MaskedImages, settings: SegmentationSettings | None = None
) -> EvaluationResult:
    """Fit a probe on training images, choose among learning rates on a part of them, and measure on test images.

    Returns:
        In percent: `miou` over classes that masks or predictions have, the same without class 0 (where that is one),
        accuracy of pixels, mean accuracy of classes, and `iou_<class>` of each class.

    Raises:
        ValueError: If the model has no patch features, or a mask or setting does not fit.
    """
    started = time.perf_counter()
    settings = settings or SegmentationSettings()
    look = PatchLook.of(model, settings)
    # A folder beside that does not fit must not cost what comes before the figure.
    pictures = {index: test.read(index) for index in sorted(_figure_places(len(test), settings))}
    beside = _read_beside(test, pictures, settings.beside or ())
    network = find_feature_network(model.network)
    num_classes = len(train.class_names)
    with eval_mode(network, settings.device):
        probe, how = (_fit_linear if settings.probe == "linear" else _fit_neighbours)(look, train, settings)
        confusions, shown = _measure(look, test, [probe], num_classes, settings)
    if settings.figure is not None:
        columns = [
            MaskColumn("Truth", [torch.from_numpy(mask) for _, mask in pictures.values()]),
            MaskColumn(f"{model.name}, {settings.probe}", [shown[index] for index in pictures]),
            *beside,
        ]
        images = [image for image, _ in pictures.values()]
        save_figure(mask_figure(images, columns, test.class_names), settings.figure)
    metrics, absent = _describe(confusions[0], test)
    if not metrics:
        raise ValueError(f"no pixel of {test.name!r} ({test.split}) has a class: every mask is {VOID} throughout.")
    feature = "patch tokens after the final norm" if look.stage is None else f"output of stage {look.stage}"
    return EvaluationResult(
        metrics=metrics,
        model=replace(model_source(model.network, model.name, model.revision), feature=feature),
        dataset=_source(test),
        protocol=ProtocolFacts("segmentation", {"probe": settings.probe, **look.facts(), **how}),
        training_dataset=_source(train),
        preprocessing={"steps": "shorter side resized, zeros up to whole patches", **look.facts()},
        seed=settings.seed,
        device=device_name(settings.device or next(model.network.parameters()).device),
        duration_s=time.perf_counter() - started,
        notes=(f"neither masks nor predictions have {', '.join(absent)}",) if absent else (),
    )


def _source(images: MaskedImages) -> DataSource:
    return DataSource(
        *(images.name, images.split, len(images), images.fingerprint()),
        description=f"images with masks, {images.split_rule}",
        num_classes=len(images.class_names),
    )


def _describe(confusion: Tensor, test: MaskedImages) -> tuple[dict[str, float], list[str]]:
    """Metrics in percent, and the classes that have none."""
    iou, seen = class_iou(confusion), confusion.sum(dim=1) > 0
    if not bool(seen.any()):
        return {}, []
    metrics = {"miou": 100 * mean_iou(confusion)}
    if not test.zero_is_void and bool(iou[1:].isfinite().any()):
        metrics["miou_without_class_0"] = 100 * float(iou[1:].nanmean())
    right = confusion.diagonal().double()
    metrics["pixel_accuracy"] = 100 * float(right.sum() / confusion.sum())
    metrics["mean_class_accuracy"] = 100 * float((right / confusion.sum(dim=1))[seen].mean())
    present = [(name, value) for name, value in zip(test.class_names, iou.tolist(), strict=True) if value == value]
    metrics |= {f"iou_{name.replace(' ', '_')}": 100 * value for name, value in present}
    return metrics, [name for name, value in zip(test.class_names, iou.tolist(), strict=True) if value != value]


# Probes


def _fit_neighbours(
    look: PatchLook, train: MaskedImages, settings: SegmentationSettings
) -> tuple[Probe, dict[str, Any]]:
    memory = PatchMemory.of(look, train, len(train.class_names), settings)
    count = min(settings.neighbours, len(memory.values))
    values, labels = memory.values.to(look.device), memory.labels.to(look.device)

    def vote(features: Tensor) -> Tensor:
        return retrieve_labels(values, labels, features, count, settings.temperature)

    return vote, {"neighbours": count, "temperature": settings.temperature, **memory.facts()}


def retrieve_labels(bank: Tensor, labels: Tensor, queries: Tensor, count: int, temperature: float) -> Tensor:
    """The mean label of the nearest patches, each weighted by the softmax of its cosine similarity.

    Args:
        bank: Features of training patches. Shape: (bank, dim).
        labels: Their shares of classes. Shape: (bank, classes).
        queries: Features. Shape: (queries, dim).
        count: How many neighbours vote.
        temperature: By which similarities are divided.

    Returns:
        Shape: (queries, classes).
    """
    found = nearest_neighbours(bank, queries, count, queries.device)
    weights = (found.similarities / temperature).softmax(dim=1)
    parts = zip(weights.split(256), found.indices.split(256), strict=True)
    return torch.cat([torch.einsum("qk,qkc->qc", weight, labels[index].float()) for weight, index in parts])


def _fit_linear(look: PatchLook, train: MaskedImages, settings: SegmentationSettings) -> tuple[Probe, dict[str, Any]]:
    """Layers of all learning rates from one pass over the images; the best on held-out ones is the probe."""
    if len(train) < 2:
        raise ValueError(f"{train.name!r} has 1 training image: the linear probe holds some out, give at least 2.")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    held = min(max(round(HELD_OUT_SHARE * len(train)), 1), HELD_OUT_AT_MOST)
    memory = PatchMemory.of(look, train.take(sorted(order[held:])), len(train.class_names), settings)
    rates = list(settings.learning_rate or LEARNING_RATES)
    heads = train_linear_heads(memory, rates, settings.steps, settings.seed, look.device, settings.progress)
    facts = {"steps": settings.steps, "batch_patches": BATCH_PATCHES, "weight_decay": WEIGHT_DECAY, **memory.facts()}
    scores: dict[str, float] = {}
    best = 0
    if len(rates) > 1:
        quiet = replace(settings, save_masks=None, figure=None, beside=None)
        confusions, _ = _measure(look, train.take(sorted(order[:held])), heads, len(train.class_names), quiet)
        found = [100 * mean_iou(each) for each in confusions]
        best = max(range(len(found)), key=lambda number: found[number] if found[number] == found[number] else -1.0)
        scores = {f"{rate:g}": value for rate, value in zip(rates, found, strict=True) if value == value}
    return heads[best], {"learning_rate": rates[best], "held_out_images": held, "held_out_miou": scores, **facts}


def train_linear_heads(
    memory: PatchMemory,
    rates: Sequence[float],
    steps: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> list[nn.Module]:
    """BatchNorm and one linear layer for each learning rate, all from the same start and on the same batches.

    AdamW, whose rates fall to 0 along a cosine; the loss is the cross-entropy of a patch's shares of classes.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = memory.labels.shape[1]
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(memory.values.shape[1], classes)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    first = nn.Sequential(nn.BatchNorm1d(memory.values.shape[1]), layer)
    heads: list[nn.Module] = [copy.deepcopy(first).to(device) for _ in rates]
    groups = [{"params": head.parameters(), "lr": rate} for head, rate in zip(heads, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in tqdm(range(steps), "linear layers", unit="step", disable=not progress):
        chosen = torch.randint(len(memory.values), (BATCH_PATCHES,), generator=generator)
        values, labels = (each[chosen].to(device).float() for each in (memory.values, memory.labels))
        loss = sum(-(labels * head(values).log_softmax(dim=1)).sum(dim=1).mean() for head in heads)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        schedule.step()
    return [head.eval().requires_grad_(False) for head in heads]


# Pixels


def _measure(
    look: PatchLook,
    images: MaskedImages,
    probes: Sequence[Probe],
    num_classes: int,
    settings: SegmentationSettings,
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Confusion matrices of several probes, and the first one's predictions of the images that a figure shows."""
    totals = [torch.zeros(num_classes, num_classes, dtype=torch.int64) for _ in probes]
    wanted = _figure_places(len(images), settings)
    shown = {}
    for index in tqdm(range(len(images)), f"{images.split} masks", unit="img", disable=not settings.progress):
        image, mask = images.read(index)
        target = torch.from_numpy(mask)
        for number, scores in enumerate(score_patches(look, image, probes)):
            size = tuple(max(round(side * look.side / min(image.size)), 1) for side in (image.height, image.width))
            predicted = label_pixels(scores, size, look.patch, (image.height, image.width))
            totals[number] += segmentation_confusion(predicted, target, num_classes)
            if number == 0 and index in wanted:
                shown[index] = predicted
            if number == 0 and settings.save_masks is not None:
                file = Path(settings.save_masks) / f"{images.names[index]}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                write_mask(file, predicted.numpy() + images.zero_is_void)  # numbered as the data set's masks
    return totals, shown


# The figure


def _figure_places(count: int, settings: SegmentationSettings) -> set[int]:
    if settings.figure is None:
        return set()
    wanted = min(settings.figure_images, count)
    return {number * count // wanted for number in range(wanted)}


def _read_beside(
    test: MaskedImages, pictures: Mapping[int, tuple[Image.Image, Mask]], folders: Sequence[str]
) -> list[MaskColumn]:
    """What other models left in folders for the images of the figure; a folder is called by its last part."""
    columns = []
    names = [Path(folder).name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        masks = []
        for index, (image, _) in pictures.items():
            file = Path(folder) / f"{test.names[index]}.png"
            if not file.is_file():
                raise FileNotFoundError(
                    f"{str(file)!r} does not exist: give folders that --save-masks wrote for the same images."
                )
            masks.append(torch.from_numpy(test.read_mask(file.read_bytes(), str(file), image)))
        columns.append(MaskColumn(name if names.count(name) == 1 else str(folder), masks))
    return columns
