"""`synco-hub card DIR` writes the card of a checkpoint, `synco-hub card verify DIR` measures its numbers again."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from synco_hub.cli.options import CardOptions, CardVerifyOptions
from synco_hub.data import load_dataset
from synco_hub.hub.card.evaluation_entries import select_metrics
from synco_hub.hub.card.model_card import (
    CARD_FILE,
    find_dataset_again,
    find_results_in,
    list_foreign_conversion,
    list_foreign_results,
    refresh_card,
)
from synco_hub.hub.publication.checks import number_problems
from synco_hub.protocols import measure
from synco_hub.results import DataSource, EvaluationResult
from synco_hub.settings import DatasetChoice, ForwardSettings, KnnSettings
from synco_hub.zoo import find_given_directory

_KNN = "knn"


def write(options: CardOptions) -> None:
    """`synco-hub card` and `synco-hub card write`."""
    directory = find_given_directory(options.directory)
    results = refresh_card(directory, options.name, options.facts, options.licence)
    for line in list_foreign_results(directory) + list_foreign_conversion(directory):
        print(f"left out: {line}")
    numbers = sum(len(select_metrics(result)) for result in results)
    print(f"wrote {directory / CARD_FILE} with {numbers} measured numbers")


def verify(options: CardVerifyOptions, forward: ForwardSettings) -> None:
    """`synco-hub card verify`."""
    directory = find_given_directory(options.directory)
    if not (directory / CARD_FILE).is_file():
        raise ValueError(f"{directory} has no card: write it with `synco-hub card {directory}`.")
    results = find_results_in(directory)
    problems = list_foreign_results(directory) + list_foreign_conversion(directory)
    problems += number_problems(directory, ModelCard.load(directory / CARD_FILE), results)
    lines: list[str] = []
    measured = 0
    for stated in results:
        where = f"{stated.protocol.name} on {stated.dataset.name}"
        if stated.protocol.name != _KNN:
            lines.append(f"{where}: not measured again, only {_KNN} is")
            continue
        try:
            again = _measure_again(directory, options, stated, forward)
        except (OSError, ValueError) as error:
            lines.append(f"{where}: not measured again ({' '.join(str(error).split())})")
            continue
        measured += 1
        compared, different = _compare_metrics(stated, again, options.tolerance)
        lines += [f"{where}: {line}" for line in compared]
        problems += [f"{where}: {line}" for line in different]
    if not measured and not problems:
        raise ValueError(f"none of the card's numbers can be measured here: {'; '.join(lines) or 'it states none'}.")
    for line in lines:
        print(f"  {line}")
    if problems:
        raise ValueError(f"the card of {directory} does not hold: {'; '.join(problems)}")
    print(f"the card of {directory} holds")


def _measure_again(
    directory: Path, options: CardVerifyOptions, stated: EvaluationResult, forward: ForwardSettings
) -> EvaluationResult:
    choice = DatasetChoice(options.dataset or find_dataset_again(stated), options.data_dir)
    settings = KnnSettings(k=list(stated.protocol.parameters["ks"]), **vars(forward))
    again = measure(_KNN, str(directory), choice, settings)
    for ours, theirs in ((stated.dataset, again.dataset), (stated.training_dataset, again.training_dataset)):
        if ours is None or theirs is None or not _are_same(ours, theirs, choice):
            raise ValueError("the images here are others than those that were measured")
    return again


def _are_same(ours: DataSource, theirs: DataSource, choice: DatasetChoice) -> bool:
    """Whether two measurements are of the same images, also if an earlier version made one of them."""
    if ours.count != theirs.count or ours.fingerprint == theirs.fingerprint:
        return ours.count == theirs.count
    return load_dataset(choice, theirs.split).description.is_same_data(ours.fingerprint)


def _compare_metrics(
    stated: EvaluationResult, again: EvaluationResult, tolerance: float
) -> tuple[list[str], list[str]]:
    """A line for each metric, and those lines again that are mismatches."""
    lines: list[str] = []
    different: list[str] = []
    for name, value in stated.metrics.items():
        if name not in again.metrics and name in ("top5_k1", "top5_k2", "top5_k3", "top5_k4"):
            # Version 0.1 counted classes that nobody had voted for.
            lines.append(f"{name} is not compared: five guesses need five neighbours")
            continue
        if name not in again.metrics:
            different.append(f"{name} is stated, but this measurement does not have it")
            continue
        line = f"{name} stated {value:.2f}, measured {again.metrics[name]:.2f}"
        lines.append(line)
        if abs(value - again.metrics[name]) > tolerance:
            different.append(line)
    return lines, different
