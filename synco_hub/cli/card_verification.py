"""Measuring again what a card states, and comparing."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from synco_hub.cli.evaluation_inputs import DataChoice
from synco_hub.cli.knn_evaluation import knn_of_model
from synco_hub.features import ExtractionSettings
from synco_hub.hub.card.model_card import CARD_FILE, results_in
from synco_hub.hub.publication.checks import number_problems
from synco_hub.results import EvaluationResult

_KNN = "knn"


def verify_card(
    directory: Path, tolerance: float, dataset: str | None, data_dir: str | None, settings: ExtractionSettings
) -> tuple[list[str], list[str]]:
    """Check a card against its result files, and the k-NN results against new measurements.

    Args:
        directory: The checkpoint.
        tolerance: Percentage points that two measurements may differ by.
        dataset: Where the images are, if the name in the results does not say; for results on that folder's name.
        data_dir: Folder of a data set's original files.
        settings: How features are computed.

    Returns:
        What was found, a line a metric; and what does not hold.

    Raises:
        ValueError: If there is no card, or none of its numbers can be measured here.
    """
    if not (directory / CARD_FILE).is_file():
        raise ValueError(f"{directory} has no card: write it with `synco-hub card {directory}`.")
    results = results_in(directory)
    problems = number_problems(directory, ModelCard.load(directory / CARD_FILE), results)
    lines: list[str] = []
    measured = 0
    for stated in results:
        where = f"{stated.protocol.name} on {stated.dataset.name}"
        if stated.protocol.name != _KNN:
            lines.append(f"{where}: not measured again, only {_KNN} is")
            continue
        try:
            again = _measured_again(directory, stated, DataChoice(dataset or stated.dataset.name, data_dir), settings)
        except (OSError, ValueError) as error:
            lines.append(f"{where}: not measured again ({' '.join(str(error).split())})")
            continue
        measured += 1
        compared, different = _compared(stated, again, tolerance)
        lines += [f"{where}: {line}" for line in compared]
        problems += [f"{where}: {line}" for line in different]
    if not measured and not problems:
        raise ValueError(f"none of the card's numbers can be measured here: {'; '.join(lines) or 'it states none'}.")
    return lines, problems


def _measured_again(
    directory: Path, stated: EvaluationResult, choice: DataChoice, settings: ExtractionSettings
) -> EvaluationResult:
    again = knn_of_model(str(directory), choice, list(stated.protocol.parameters["ks"]), settings)
    for ours, theirs in ((stated.dataset, again.dataset), (stated.training_dataset, again.training_dataset)):
        if ours is None or theirs is None or (ours.count, ours.fingerprint) != (theirs.count, theirs.fingerprint):
            raise ValueError("the images here are others than those that were measured")
    return again


def _compared(stated: EvaluationResult, again: EvaluationResult, tolerance: float) -> tuple[list[str], list[str]]:
    """A line for each metric, and those lines again that are mismatches."""
    lines: list[str] = []
    different: list[str] = []
    for name, value in stated.metrics.items():
        if name not in again.metrics:
            different.append(f"{name} is stated, but this measurement does not have it")
            continue
        line = f"{name} stated {value:.2f}, measured {again.metrics[name]:.2f}"
        lines.append(line)
        if abs(value - again.metrics[name]) > tolerance:
            different.append(line)
    return lines, different
