"""Accuracy of a classifier on shifted and corrupted images (Table 13), cell by cell; finished cells survive a stop.

Source: paper, section 8.2: linear classifiers trained on clean ImageNet, centre crop, top-1, the plain mean over 15
corruptions and 5 severities.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from synco_hub.data import EvaluationDataset, ImageDataset, UnreadableImages
from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS
from synco_hub.data.class_labels import find_class_columns, number_by_head
from synco_hub.data.corruptions import SEVERITIES
from synco_hub.data.image_dataset import fingerprint
from synco_hub.evaluation.classification import check_same_classes, classification_targets
from synco_hub.evaluation.measurement import EvaluatedModel, describe_classifier, save_each
from synco_hub.evaluation.resume import check_same_measurement, hash_images, identify_model
from synco_hub.evaluation.robustness_sets import PlannedCell, RobustnessPlan, plan_on_the_fly, plan_published
from synco_hub.features import eval_mode
from synco_hub.metrics import mean_corruption_error, target_ranks
from synco_hub.metrics.accuracy import standard_error
from synco_hub.results import (
    DataSource,
    EvaluationResult,
    ProtocolFacts,
    device_name,
    explain_standard_errors,
    library_versions,
)
from synco_hub.settings import DatasetChoice, ForwardSettings, RobustnessSettings

logger = logging.getLogger(__name__)


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: RobustnessSettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a classifier on the published sets, or on corruptions drawn here; goes on from what `output` holds."""
    if settings.on_the_fly and (settings.sets is not None or data.data_dir is not None):
        raise ValueError("--on-the-fly corrupts the images of --dataset: leave --sets and --data-dir out.")
    if not settings.on_the_fly and settings.num_images is not None:
        raise ValueError("--num-images goes with --on-the-fly: the published sets are measured whole.")
    plan = (plan_on_the_fly if settings.on_the_fly else plan_published)(model, data, settings)
    run = RobustnessRun(model, plan, settings)
    for cell in plan.cells if model.pretrained_on and not settings.on_the_fly else ():
        # Corrupted and watermarked images are those of another set, changed.
        if not cell.key.startswith(("imagenet_c/", "imagenet_w")):
            model.check_leak(cell.open().images, settings.progress)
    taken = 0 if output is None else run.take_finished(output)
    if taken and settings.progress:
        tqdm.write(f"{taken} of {len(plan.cells)} cells are in {output} already")
    return save_each(run.results(), output)


def format_table(result: EvaluationResult) -> str:
    """Corruptions by severity, then every other set and the means."""
    cells = {key: AccuracyCell.from_dict(dict(cell)) for key, cell in result.protocol.parameters["cells"].items()}
    lines = []
    for family in ("imagenet_c", "corrupted"):
        if table := tabulate_severities(family, cells):
            lines.append(f"  {family:<18} severity" + "".join(f"{severity:>8}" for severity in SEVERITIES))
            for name, row in table.items():
                lines.append(f"  {name:<26}" + "".join("       -" if at is None else f"{at:8.2f}" for at in row))
    for name, value in result.metrics.items():
        if not any(f"_{corruption}_" in name for corruption in BENCHMARK_CORRUPTIONS):
            error = f" ± {result.standard_errors[name]:.2f}" if name in result.standard_errors else ""
            lines.append(f"  {name:<32} {value:7.2f} %{error}")
    return "\n".join([*lines, *(f"  {note}" for note in explain_standard_errors(result.standard_errors.values()))])


class RobustnessRun:
    """A classifier on planned cells."""

    def __init__(self, model: EvaluatedModel, plan: RobustnessPlan, settings: ForwardSettings | None = None) -> None:
        self.model, self.plan, self.settings = model, plan, settings or ForwardSettings()
        # Before the first image: a classifier of other classes must not cost hours.
        lists = {cell.class_list for cell in plan.cells if cell.class_list}
        self.columns = {name: find_class_columns(model.class_names, name) for name in sorted(lists)}
        self.identity: dict[str, Any] = {
            **identify_model(model.network),
            "classes": fingerprint(model.class_names),
            "data": plan.data_fingerprint or plan.data_name,
            "preprocessing": plan.preprocessing,
            "seed": plan.seed,
        }
        self.cells: dict[str, AccuracyCell] = {}
        self._last_contents: tuple[ImageDataset, str] | None = None
        self.device = "cpu"
        self.duration = 0.0

    def take_finished(self, output: Path) -> int:
        """Take the cells of an earlier, perhaps interrupted, run of the same measurement, and give their number.

        A planned cell whose images have changed since is measured anew. Cells that are not planned now stay as they
        are. A missing file is no error.
        """
        if not output.is_file():
            return 0
        earlier = EvaluationResult.load(output, self.plan.protocol)
        stored = earlier.protocol.parameters
        remedy = "give another --output, or remove it to measure anew"
        before = {"data": self.plan.earlier_fingerprint}
        check_same_measurement(f"{output} holds", stored.get("identity", {}), self.identity, remedy, before)
        self.cells = _read_stored_cells(output, stored.get("cells"))
        self.duration = earlier.duration_s
        if stale := self._stale_cells():
            some = f"{', '.join(stale[:3])}{' …' if len(stale) > 3 else ''}"
            logger.warning(
                "%s: the images of %d cells are others now, which are measured anew: %s", output, len(stale), some
            )
        self.cells = {key: cell for key, cell in self.cells.items() if key not in stale}
        return len(self.cells)

    def results(self) -> Iterator[EvaluationResult]:
        """Measure what is not finished, and yield the result after each cell (once if nothing is left)."""
        waiting = [cell for cell in self.plan.cells if cell.key not in self.cells]
        with eval_mode(self.model.network, self.settings.device) as network:
            self.device = device_name(next(network.parameters()).device)
            for number, cell in enumerate(waiting, 1):
                started = time.perf_counter()
                self.cells[cell.key] = self._measured(network, cell, f"{cell.key} ({number} of {len(waiting)})")
                self.duration += time.perf_counter() - started
                yield self.result()
        if not waiting:
            yield self.result()

    def result(self) -> EvaluationResult:
        """What is finished so far, with the cells of earlier runs of other sets."""
        cells = self.cells
        unfinished = [cell.key for cell in self.plan.cells if cell.key not in cells]
        notes = list(self.plan.notes)
        if unfinished:
            notes.append(f"not finished: {len(unfinished)} of {len(self.plan.cells)} cells, first {unfinished[0]}")
        return EvaluationResult(
            metrics=compute_robustness_metrics(cells),
            model=describe_classifier(self.model, self.identity["weights"]),
            dataset=DataSource(
                self.plan.data_name,
                "test",
                # Corruptions drawn here are all of the same images.
                (sum if self.plan.data_fingerprint is None else max)(cell.images for cell in cells.values()),
                fingerprint([str(cell.fingerprint) for cell in cells.values()]),
                self.plan.description,
                len(self.model.class_names),
            ),
            protocol=ProtocolFacts(
                self.plan.protocol,
                {
                    "identity": self.identity,
                    "view": "centre crop",
                    "ties": "lower class index first",
                    "corruption mean": "plain mean over 15 corruptions and 5 severities",
                    "cells": {key: cell.to_dict() for key, cell in cells.items()},
                },
            ),
            preprocessing=self.plan.preprocessing,
            standard_errors=compute_standard_errors(cells),
            versions=library_versions(*(["imagecorruptions"] if self.plan.data_fingerprint is not None else [])),
            seed=self.plan.seed,
            device=self.device,
            duration_s=self.duration,
            skipped_files=tuple(f"{key}: {name}" for key, cell in cells.items() for name in cell.skipped),
            partial=bool(unfinished) or self.plan.subset,
            notes=tuple(notes),
        )

    def _stale_cells(self) -> list[str]:
        """The planned cells whose images are no longer those that they were measured on."""
        finished = [cell for cell in self.plan.cells if cell.key in self.cells]
        stale = []
        for cell in tqdm(finished, "comparing", unit="cell", leave=False, disable=not self.settings.progress):
            images, taken = cell.open().images, self.cells[cell.key]
            same_list = images.description.is_same_data(taken.fingerprint)
            if not same_list or (taken.contents, taken.drawing) != (self._contents(images), cell.drawing):
                stale.append(cell.key)
        return stale

    def _contents(self, images: ImageDataset) -> str:
        # The cells of corruptions drawn on the fly are made of one data set.
        if self._last_contents is None or self._last_contents[0] is not images:
            self._last_contents = images, hash_images(images)
        return self._last_contents[1]

    def _measured(self, network: nn.Module, cell: PlannedCell, title: str) -> AccuracyCell:
        dataset = cell.open()
        if cell.class_list is None:
            number_by_head(dataset.images, self.model.class_names)
        targets = classification_targets(dataset.images, "a robustness measurement")
        if targets.multi_label:
            raise ValueError(f"{dataset.images.description.name} has several classes an image: one is needed here")
        if cell.class_list is None:
            check_same_classes(self.model.class_names, targets.class_names)
            columns = torch.arange(len(self.model.class_names))
        else:
            columns = self.columns[cell.class_list]
        is_subset = cell.class_list not in (None, "imagenet_1k")
        # Before the measurement: images that change while it runs are then others than those that it names.
        contents = self._contents(dataset.images)
        measured = measure_cell(network, dataset, columns, self.settings, title, is_subset)
        return replace(measured, contents=contents, drawing=cell.drawing)


def _read_stored_cells(output: Path, stored: Any) -> dict[str, AccuracyCell]:
    try:
        return {key: AccuracyCell.from_dict(dict(values)) for key, values in stored.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{output} holds no cells that could be continued ({error}), as if it had been edited: give another "
            "--output, or remove it to measure anew"
        ) from error


@dataclass(frozen=True)
class AccuracyCell:
    """Counts of one set.

    Attributes:
        images: Readable images.
        correct: Those whose class has the highest logit of all.
        correct_of_subset: Those whose class has the highest logit of the set's own classes; None if these are all.
        skipped: Names of the unreadable images.
        fingerprint: Of the set: names and labels.
        contents: Of its files, see `synco_hub.evaluation.resume`; None if it was not looked for.
        drawing: Version of how its corruption was drawn.
    """

    images: int
    correct: int
    correct_of_subset: int | None = None
    skipped: tuple[str, ...] = ()
    fingerprint: str | None = None
    contents: str | None = None
    drawing: int = 1

    @property
    def top1(self) -> float:
        """Accuracy among all classes of the classifier, in percent."""
        return 100.0 * self.correct / self.images

    @property
    def top1_of_subset(self) -> float | None:
        """Accuracy among the set's own classes, in percent."""
        return None if self.correct_of_subset is None else 100.0 * self.correct_of_subset / self.images

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What :meth:`to_dict` gave."""
        try:
            cell = cls(**{**values, "skipped": tuple(values.get("skipped", ()))})
            right = (cell.correct, cell.correct_of_subset or 0)
            if cell.images < 1 or not 0 <= min(right) <= max(right) <= cell.images:
                raise ValueError(f"{right} of {cell.images} images cannot be right")
        except TypeError as error:
            raise ValueError(str(error)) from error
        return cell


def measure_cell(
    network: nn.Module,
    dataset: EvaluationDataset,
    columns: Tensor,
    settings: ForwardSettings,
    title: str,
    with_subset: bool = False,
) -> AccuracyCell:
    """Classify a set.

    Args:
        network: In eval mode, gives ``logits``.
        dataset: Labelled images.
        columns: Output of the classifier for each label. Shape: (num_classes of the set,).
        settings: Batch size, workers, progress.
        title: What the progress bar says.
        with_subset: Also count with all other outputs left out.
    """
    ledger = UnreadableImages(dataset, settings.max_bad_fraction)
    device = next(network.parameters()).device
    loader: DataLoader[Any] = DataLoader(dataset, settings.batch_size, num_workers=settings.num_workers)
    images = correct = of_subset = 0
    with tqdm(total=len(dataset), desc=title, unit="img", leave=False, disable=not settings.progress) as bar:
        for batch in loader:
            ledger.record(batch["bad_index"])
            good = batch["bad_index"] < 0
            if bool(good.any()):
                with torch.inference_mode():
                    logits = network(pixel_values=batch["pixel_values"][good].to(device)).logits.float().cpu()
                labels = batch["label"][good]
                correct += int((target_ranks(logits, columns[labels]) == 0).sum())
                if with_subset:
                    of_subset += int((target_ranks(logits[:, columns], labels) == 0).sum())
                images += len(labels)
            bar.update(len(good))
    if images == 0:
        raise ValueError(f"{title}: no image could be read: an accuracy needs at least one; check the folder")
    return AccuracyCell(
        images,
        correct,
        of_subset if with_subset else None,
        tuple(ledger.names()),
        dataset.images.description.fingerprint,
    )


Cells = Mapping[str, AccuracyCell]


def compute_robustness_metrics(cells: Cells) -> dict[str, float]:
    """Metrics of the cells that are there, in percent."""
    metrics: dict[str, float] = {}
    for key, cell in cells.items():
        if "/" in key:
            continue
        if cell.top1_of_subset is None:
            metrics[f"{key}_top1"] = cell.top1
        else:
            metrics[f"{key}_top1_of_200"] = cell.top1_of_subset
            metrics[f"{key}_top1_of_1000"] = cell.top1
    if "imagenet" in cells and "imagenet_w" in cells:
        metrics["imagenet_w_gap"] = cells["imagenet_w"].top1 - cells["imagenet"].top1
    for family in dict.fromkeys(key.split("/")[0] for key in cells if "/" in key):
        metrics |= _corruption_metrics(family, cells)
    return metrics


def compute_standard_errors(cells: Cells) -> dict[str, float]:
    """Of the accuracies, in percentage points.

    Means over corruptions are of the same images: theirs is what it would be if each image were right under all
    corruptions or under none, and no less.
    """
    metrics = compute_robustness_metrics(cells)
    errors: dict[str, float] = {}
    for key, cell in cells.items():
        begin = key.replace("/", "_")
        names = (f"{begin}_top1", f"{begin}_top1_of_200", f"{begin}_top1_of_1000")
        errors |= {name: standard_error(metrics[name], cell.images) for name in names if name in metrics}
    for family in dict.fromkeys(key.split("/")[0] for key in cells if "/" in key):
        fewest = min(cell.images for key, cell in cells.items() if key.startswith(f"{family}/"))
        means = (f"{family}_top1", *(f"{family}_{corruption}_top1" for corruption in BENCHMARK_CORRUPTIONS))
        errors |= {name: standard_error(metrics[name], fewest) for name in means if name in metrics}
    return errors


def tabulate_severities(family: str, cells: Cells) -> dict[str, list[float | None]]:
    """Accuracy in percent of each corruption at severities 1 to 5, None where it is not measured."""
    table: dict[str, list[float | None]] = {}
    for name in BENCHMARK_CORRUPTIONS:
        found = [cells.get(f"{family}/{name}/{severity}") for severity in SEVERITIES]
        if any(found):
            table[name] = [None if cell is None else cell.top1 for cell in found]
    return table


def _corruption_metrics(family: str, cells: Cells) -> dict[str, float]:
    table = tabulate_severities(family, cells)
    means: dict[str, float] = {}
    single: dict[str, float] = {}
    for name, row in table.items():
        single |= {f"{family}_{name}_{at}_top1": value for at, value in enumerate(row, 1) if value is not None}
        if None not in row:
            means[name] = sum(value for value in row if value is not None) / len(row)
    metrics: dict[str, float] = {}
    if len(means) == len(BENCHMARK_CORRUPTIONS):
        metrics[f"{family}_top1"] = sum(means.values()) / len(means)
        if family == "imagenet_c":
            rows = {name: torch.tensor(row, dtype=torch.float64) for name, row in table.items()}
            errors = {name: 1 - accuracies / 100 for name, accuracies in rows.items()}
            metrics["imagenet_c_mce"] = 100.0 * mean_corruption_error(errors)
    return {**metrics, **{f"{family}_{name}_top1": value for name, value in means.items()}, **single}
