"""Accuracy of a classifier on shifted and corrupted images (Table 13), cell by cell; finished cells survive a stop.

Source: paper, section 8.2: linear classifiers trained on clean ImageNet, centre crop, top-1, the plain mean over 15
corruptions and 5 severities.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from synco_hub.data import ImageDataset
from synco_hub.data.class_labels import class_columns
from synco_hub.data.image_dataset import fingerprint
from synco_hub.evaluation.classification_targets import check_same_classes, classification_targets
from synco_hub.evaluation.measurement.image_contents import contents_of_images
from synco_hub.evaluation.measurement.measured_split import classifier_source
from synco_hub.evaluation.measurement.model_identity import model_identity
from synco_hub.evaluation.measurement.resumable_folder import differences
from synco_hub.evaluation.shifts.accuracy_cell import AccuracyCell, measure_cell
from synco_hub.evaluation.shifts.robustness_metrics import robustness_metrics
from synco_hub.evaluation.shifts.robustness_sets import PlannedCell
from synco_hub.features import ExtractionSettings
from synco_hub.frozen import frozen
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RobustnessFacts:
    """What a robustness result says beside its cells.

    Attributes:
        protocol: ``robustness``, or ``robustness_on_the_fly``.
        data_name: What the images are called.
        description: Where they come from.
        preprocessing: How an image became the network's input.
        seed: Of what is drawn, None if nothing is.
        notes: What a reader has to know.
        subset: Whether less is planned than the protocol asks for.
        data_fingerprint: Of the data set that all cells are made of; None where each cell is a set of its own.
    """

    protocol: str
    data_name: str
    description: str
    preprocessing: dict[str, Any]
    seed: int | None = None
    notes: tuple[str, ...] = ()
    subset: bool = False
    data_fingerprint: str | None = None


class RobustnessRun:
    """A classifier on planned cells.

    Args:
        classifier: Gives ``logits``.
        class_names: In the order of its outputs.
        model_name: What the result calls it.
        plan: The cells.
        facts: What the result says.
        settings: Batch size, workers, device, progress.

    Raises:
        ValueError: If the classifier lacks classes of a planned set.
    """

    def __init__(
        self,
        classifier: nn.Module,
        class_names: tuple[str, ...],
        model_name: str,
        plan: Sequence[PlannedCell],
        facts: RobustnessFacts,
        settings: ExtractionSettings | None = None,
    ) -> None:
        self.classifier, self.class_names, self.model_name = classifier, class_names, model_name
        self.plan, self.facts, self.settings = list(plan), facts, settings or ExtractionSettings()
        # Before the first image: a classifier of other classes must not cost hours.
        lists = {cell.class_list for cell in self.plan if cell.class_list}
        self.columns = {name: class_columns(class_names, name) for name in sorted(lists)}
        self.identity: dict[str, Any] = {
            **model_identity(classifier),
            "classes": fingerprint(class_names),
            "data": facts.data_fingerprint or facts.data_name,
            "preprocessing": facts.preprocessing,
            "seed": facts.seed,
        }
        self.cells: dict[str, AccuracyCell] = {}
        self._last_contents: tuple[ImageDataset, str] | None = None
        self.device = "cpu"
        self.duration = 0.0

    def take_finished(self, output: Path) -> int:
        """Take the cells of an earlier, perhaps interrupted, run of the same measurement.

        A planned cell whose images have changed since is measured anew. Cells that are not planned now stay as they
        are.

        Args:
            output: The result that it wrote; a missing file is no error.

        Returns:
            Number of cells taken.

        Raises:
            ValueError: If the file is no result, or of another measurement.
        """
        if not output.is_file():
            return 0
        earlier = EvaluationResult.load(output, self.facts.protocol)
        stored = earlier.protocol.parameters
        if differing := differences(stored.get("identity", {}), self.identity):
            raise ValueError(
                f"{output} holds another measurement ({differing}): give another --output, or remove it to measure "
                "anew"
            )
        self.cells = _stored_cells(output, stored.get("cells"))
        self.duration = earlier.duration_s
        if stale := self._stale_cells():
            some = f"{', '.join(stale[:3])}{' …' if len(stale) > 3 else ''}"
            logger.warning(
                "%s: the images of %d cells are others now, which are measured anew: %s", output, len(stale), some
            )
        self.cells = {key: cell for key, cell in self.cells.items() if key not in stale}
        return len(self.cells)

    def results(self) -> Iterator[EvaluationResult]:
        """Measure what is not finished, and yield the result after each cell (once if nothing is left).

        Raises:
            ValueError: If a set is empty, broken or not readable, its classes are not the classifier's, or a logit is
                NaN.
        """
        waiting = [cell for cell in self.plan if cell.key not in self.cells]
        with frozen(self.classifier, self.settings.device) as network:
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
        unfinished = [cell.key for cell in self.plan if cell.key not in cells]
        notes = list(self.facts.notes)
        if unfinished:
            notes.append(f"not finished: {len(unfinished)} of {len(self.plan)} cells, first {unfinished[0]}")
        return EvaluationResult(
            metrics=robustness_metrics(cells),
            model=classifier_source(self.classifier, self.model_name, self.identity["weights"]),
            dataset=DataSource(
                self.facts.data_name,
                "test",
                sum(cell.images for cell in cells.values()),
                fingerprint([str(cell.fingerprint) for cell in cells.values()]),
                self.facts.description,
                len(self.class_names),
            ),
            protocol=ProtocolFacts(
                self.facts.protocol,
                {
                    "identity": self.identity,
                    "view": "centre crop",
                    "ties": "lower class index first",
                    "corruption mean": "plain mean over 15 corruptions and 5 severities",
                    "cells": {key: cell.to_dict() for key, cell in cells.items()},
                },
            ),
            preprocessing=self.facts.preprocessing,
            seed=self.facts.seed,
            device=self.device,
            duration_s=self.duration,
            skipped_files=tuple(f"{key}: {name}" for key, cell in cells.items() for name in cell.skipped),
            partial=bool(unfinished) or self.facts.subset,
            notes=tuple(notes),
        )

    def _stale_cells(self) -> list[str]:
        """The planned cells whose images are no longer those that they were measured on."""
        finished = [cell for cell in self.plan if cell.key in self.cells]
        stale = []
        for cell in tqdm(finished, "comparing", unit="cell", leave=False, disable=not self.settings.progress):
            images, taken = cell.open().images, self.cells[cell.key]
            if (taken.fingerprint, taken.contents) != (images.description.fingerprint, self._contents(images)):
                stale.append(cell.key)
        return stale

    def _contents(self, images: ImageDataset) -> str:
        # The cells of corruptions drawn on the fly are made of one data set.
        if self._last_contents is None or self._last_contents[0] is not images:
            self._last_contents = images, contents_of_images(images)
        return self._last_contents[1]

    def _measured(self, network: nn.Module, cell: PlannedCell, title: str) -> AccuracyCell:
        dataset = cell.open()
        targets = classification_targets(dataset.images, "a robustness measurement")
        if targets.multi_label:
            raise ValueError(f"{dataset.images.description.name} has several classes an image: one is needed here")
        if cell.class_list is None:
            check_same_classes(self.class_names, targets.class_names)
            columns = torch.arange(len(self.class_names))
        else:
            columns = self.columns[cell.class_list]
        is_subset = cell.class_list not in (None, "imagenet_1k")
        # Before the measurement: images that change while it runs are then others than those that it names.
        contents = self._contents(dataset.images)
        measured = measure_cell(network, dataset, columns, self.settings, title, is_subset)
        return replace(measured, contents=contents)


def _stored_cells(output: Path, stored: Any) -> dict[str, AccuracyCell]:
    try:
        return {key: AccuracyCell.from_dict(dict(values)) for key, values in stored.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{output} holds no cells that could be continued ({error}), as if it had been edited: give another "
            "--output, or remove it to measure anew"
        ) from error
