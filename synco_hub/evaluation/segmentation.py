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
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from synco_hub.data.davis import write_mask
from synco_hub.data.image_dataset import fingerprint
from synco_hub.data.masked_images import VOID, Mask, MaskedImages
from synco_hub.data.segmentation import load_masked_images
from synco_hub.evaluation.leaks import PictureFiles
from synco_hub.evaluation.measurement import EvaluatedModel, model_source, save_each
from synco_hub.evaluation.nearest_neighbours import nearest_neighbours
from synco_hub.evaluation.patch_labels import PatchLook, PatchMemory, Probe, label_pixels, score_patches
from synco_hub.evaluation.resume import ResumableFolder, hash_files, identify_model
from synco_hub.feature_pooling import find_feature_network
from synco_hub.features import eval_mode
from synco_hub.metrics.mean_iou import class_iou, mean_iou, segmentation_confusion
from synco_hub.output_paths import check_output_folder
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name
from synco_hub.settings import DatasetChoice, SegmentationSettings
from synco_hub.visualization.annotation_figures import MaskColumn, mask_figure
from synco_hub.visualization.figures import save_figure

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
BATCH_PATCHES = 4096
WEIGHT_DECAY = 1e-4
HELD_OUT_SHARE, HELD_OUT_AT_MOST = 0.1, 500
# Images whose confusion matrix is kept as one.
_BLOCK = 64
_HEADS = "linear.safetensors"
# What changes no number.
_NO_FACTS = ("save_masks", "figure", "figure_images", "beside", "device", "progress")


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: SegmentationSettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a model on images with masks; write masks and a figure where the settings say so.

    Until the result is written, what is finished is kept beside it, so that a killed measurement goes on.
    """
    folder = None if output is None else output.with_name(f"{output.stem}.parts")
    if folder is not None:
        check_output_folder(folder, "--output")
    train, test = load_masked_images(data, settings.num_classes, settings.zero_is_void, settings.progress)
    model.check_leak(PictureFiles(test.name, test.pictures()), settings.progress)
    result = evaluate_segmentation(model, train, test, settings, folder)
    save_each([result], output)
    if folder is not None:
        shutil.rmtree(folder)  # a gigabyte at the usual size of the memory
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
    model: EvaluatedModel,
    train: MaskedImages,
    test: MaskedImages,
    settings: SegmentationSettings | None = None,
    folder: Path | None = None,
) -> EvaluationResult:
    """Fit a probe on training images, choose among learning rates on a part of them, and measure on test images.

    Args:
        model: Any model with patch features.
        train: What the probe learns from.
        test: What is measured.
        settings: Of the protocol.
        folder: Keeps what is finished, for the same measurement to go on from; parts of others are replaced.

    Returns:
        In percent: `miou` over classes that masks or predictions have, the same without class 0 (where that is one),
        accuracy of pixels, mean accuracy of classes, and `iou_<class>` of each class.

    Raises:
        ValueError: If the model has no patch features, a mask or setting does not fit, or the folder holds other
            things.
    """
    started = time.perf_counter()
    settings = settings or SegmentationSettings()
    look = PatchLook.of(model, settings)
    # A folder beside that does not fit must not cost what comes before the figure.
    pictures = {index: test.read(index) for index in sorted(_figure_places(len(test), settings))}
    beside = _read_beside(test, pictures, settings.beside or ())
    network = find_feature_network(model.network)
    num_classes = len(train.class_names)
    chosen = {name: value for name, value in asdict(settings).items() if name not in _NO_FACTS}
    numbering = {"num_classes": num_classes, "zero_is_void": test.zero_is_void, "drawn": test.drawn}
    # Part of what tells each part from others, so that a measurement with other settings begins anew without a word.
    facts = "" if folder is None else json.dumps({**identify_model(network), **chosen, **look.facts(), **numbering})
    kept = ResumableFolder(folder, {"protocol": "segmentation"})
    with eval_mode(network, settings.device):
        fit = _fit_linear if settings.probe == "linear" else _fit_neighbours
        probe, identity, how = fit(look, train, settings, kept, facts)
        confusions, shown = _measure(look, test, [probe], num_classes, settings, kept, identity)
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
    look: PatchLook, train: MaskedImages, settings: SegmentationSettings, kept: ResumableFolder, facts: str
) -> tuple[Probe, str, dict[str, Any]]:
    """The probe, what tells it from others, and how it came about."""
    memory = PatchMemory.of(look, train, len(train.class_names), settings, kept, facts)
    count = min(settings.neighbours, len(memory.values))
    values, labels = memory.values.to(look.device), memory.labels.to(look.device)

    def vote(features: Tensor) -> Tensor:
        return retrieve_labels(values, labels, features, count, settings.temperature)

    identity = "" if kept.path is None else fingerprint(facts, memory.fingerprint())
    return vote, identity, {"neighbours": count, "temperature": settings.temperature, **memory.facts()}


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


def _fit_linear(
    look: PatchLook, train: MaskedImages, settings: SegmentationSettings, kept: ResumableFolder, facts: str
) -> tuple[Probe, str, dict[str, Any]]:
    """Layers of all learning rates from one pass over the images; the best on held-out ones is the probe."""
    if len(train) < 2:
        raise ValueError(f"{train.name!r} has 1 training image: the linear probe holds some out, give at least 2.")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    held = min(max(round(HELD_OUT_SHARE * len(train)), 1), HELD_OUT_AT_MOST)
    learned = train.take(sorted(order[held:]))
    memory = PatchMemory.of(look, learned, len(train.class_names), settings, kept, facts)
    rates = list(settings.learning_rate or LEARNING_RATES)
    identity = "" if kept.path is None else fingerprint(facts, memory.fingerprint())
    stored = kept.load_tensors(_HEADS, identity)
    if stored is None:
        heads = train_linear_heads(memory, rates, settings.steps, settings.seed, look.device, settings.progress)
        kept.save_tensors(_HEADS, identity, nn.ModuleList(heads).state_dict())
    else:
        heads = _build_heads(memory, len(rates), torch.Generator(), look.device)
        nn.ModuleList(heads).load_state_dict(stored)
        heads = [head.eval().requires_grad_(False) for head in heads]
    how = {"steps": settings.steps, "batch_patches": BATCH_PATCHES, "weight_decay": WEIGHT_DECAY, **memory.facts()}
    scores: dict[str, float] = {}
    best = 0
    if len(rates) > 1:
        quiet = replace(settings, save_masks=None, figure=None, beside=None)
        held_out = train.take(sorted(order[:held]))
        confusions, _ = _measure(look, held_out, heads, len(train.class_names), quiet, kept, identity)
        found = [100 * mean_iou(each) for each in confusions]
        best = max(range(len(found)), key=lambda number: found[number] if found[number] == found[number] else -1.0)
        scores = {f"{rate:g}": value for rate, value in zip(rates, found, strict=True) if value == value}
    found_by = {"learning_rate": rates[best], "held_out_images": held, "held_out_miou": scores}
    return heads[best], fingerprint(identity, str(rates[best])), {**found_by, **how}


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
    heads = _build_heads(memory, len(rates), generator, device)
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


def _build_heads(
    memory: PatchMemory, count: int, generator: torch.Generator, device: torch.device | str
) -> list[nn.Module]:
    dim, classes = memory.values.shape[1], memory.labels.shape[1]
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(dim, classes)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    first = nn.Sequential(nn.BatchNorm1d(dim), layer)
    return [copy.deepcopy(first).to(device) for _ in range(count)]


# Pixels


def _measure(
    look: PatchLook,
    images: MaskedImages,
    probes: Sequence[Probe],
    num_classes: int,
    settings: SegmentationSettings,
    kept: ResumableFolder,
    identity: str,
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Confusion matrices of several probes, and the first one's predictions of the images that a figure shows.

    Blocks of images that an interrupted measurement with these probes, told by `identity`, kept are taken from there.
    """
    totals = torch.zeros(len(probes), num_classes, num_classes, dtype=torch.int64)
    wanted = _figure_places(len(images), settings)
    shown = {}
    with tqdm(total=len(images), desc=f"{images.split} masks", unit="img", disable=not settings.progress) as bar:
        for number, start in enumerate(range(0, len(images), _BLOCK)):
            block = range(start, min(start + _BLOCK, len(images)))
            files = [_mask_file(images, index, settings) for index in block] if settings.save_masks else []
            name = f"{images.split}-masks/{number:05}.json"
            contents = fingerprint(identity, images.take(block).fingerprint()) if kept.path is not None else ""
            part = kept.load_part(name, contents)
            # Masks may have been asked for since, or something else may lie in their place.
            done = part is not None and (not files or part["files"] == hash_files(files))
            counts = torch.zeros_like(totals)
            for index in (wanted & set(block)) if done else block:
                image, mask = images.read(index)
                for place, predicted in enumerate(_label_image(look, image, probes)):
                    counts[place] += segmentation_confusion(predicted, torch.from_numpy(mask), num_classes)
                    if place == 0 and index in wanted:
                        shown[index] = predicted
                    if place == 0 and files and not done:
                        file = files[index - start]
                        file.parent.mkdir(parents=True, exist_ok=True)
                        write_mask(file, predicted.numpy() + images.zero_is_void)  # numbered as the data set's masks
                if not done:
                    bar.update()
            if part is not None and done:
                counts = torch.tensor(part["confusions"])
                bar.update(len(block))
            elif kept.path is not None:
                kept.save_part(name, contents, {"confusions": counts.tolist(), "files": hash_files(files)})
            totals += counts
    return list(totals), shown


def _label_image(look: PatchLook, image: Image.Image, probes: Sequence[Probe]) -> Iterator[Tensor]:
    """Classes of an image's pixels, as each probe has it."""
    size = tuple(max(round(side * look.side / min(image.size)), 1) for side in (image.height, image.width))
    for scores in score_patches(look, image, probes):
        yield label_pixels(scores, size, look.patch, (image.height, image.width))


def _mask_file(images: MaskedImages, index: int, settings: SegmentationSettings) -> Path:
    return Path(str(settings.save_masks)) / f"{images.names[index]}.png"


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
