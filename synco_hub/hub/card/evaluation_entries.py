"""Measurements in the two forms that the Hub reads: `model-index` in a card, and files in `.eval_results/`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from synco_hub.data.catalog.sets import CATALOG
from synco_hub.data.segmentation import SEGMENTATION_SETS
from synco_hub.results import EvaluationResult

FOLDER = ".eval_results"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Cost and speed are no scores of a task; they stand in the card's table only.
_NO_SCORES = ("efficiency",)
_NATS = ("negative_log_likelihood",)
_TASKS = {"segmentation": "image-segmentation"}
# Binary fractions of percentages are no facts: 43.00000000000001.
_DIGITS = 4
_OF_OTHER_WEIGHTS = re.compile(r"_best_epoch$|_last_epoch_lr")


def find_hub_dataset(result: EvaluationResult) -> str | None:
    """The data set's id on the Hub; None for drawn images and folders of one's own."""
    name = result.dataset.name
    if row := CATALOG.get(name) or SEGMENTATION_SETS.get(name):
        return row.dataset_id
    return name if _HUB_ID.fullmatch(name) else None


def select_metrics(result: EvaluationResult) -> dict[str, float]:
    """The metrics of the weights that are shipped, rounded: not of epochs and learning rates that were not kept.

    The IoU of each class, of which there can be hundreds, stands in the result's file.
    """
    metrics = {name: value for name, value in result.metrics.items() if not name.startswith("iou_")}
    return {name: round(value, _DIGITS) for name, value in metrics.items() if not _OF_OTHER_WEIGHTS.search(name)}


def build_model_index(results: Sequence[EvaluationResult]) -> list[EvalResult]:
    """One entry a metric."""
    return [
        EvalResult(
            task_type=_TASKS.get(result.protocol.name, "image-classification"),
            dataset_type=find_hub_dataset(result) or result.dataset.name,
            dataset_name=result.dataset.name,
            dataset_split=result.dataset.split,
            metric_type=metric,
            metric_value=value,
            metric_name=f"{result.protocol.title} {metric}",
        )
        for result in results
        if result.protocol.name not in _NO_SCORES
        for metric, value in select_metrics(result).items()
    ]


def render_evaluation_files(results: Sequence[EvaluationResult]) -> dict[str, str]:
    """Files for `.eval_results/`: name to YAML text, one score each, as the Hub wants variants of one benchmark."""
    files: dict[str, str] = {}
    for result in results:
        dataset = find_hub_dataset(result)
        if dataset is None or result.protocol.name in _NO_SCORES:
            continue
        for metric, value in select_metrics(result).items():
            entry = EvalResultEntry(dataset_id=dataset, task_id="default", value=value, notes=_notes(result, metric))
            name = re.sub(r"[^\w.-]+", "-", f"{result.dataset.name}_{result.protocol.title}_{metric}").strip(".-")
            text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
            if files.setdefault(f"{name}.yaml", text) != text:
                raise ValueError(
                    f"two results give different values of {metric} by {result.protocol.title} on "
                    f"{result.dataset.name}: keep one of the result files"
                )
    return files


def _notes(result: EvaluationResult, metric: str) -> str:
    unit = "nats" if metric in _NATS else "percent"
    kind = "partial measurement" if result.partial else "frozen features"
    error = f" ± {result.standard_errors[metric]:.2f}" if metric in result.standard_errors else ""
    return (
        f"{result.protocol.title}, {metric}{error} in {unit}, {kind}, split {result.dataset.split} "
        f"({result.dataset.count} images), synco-hub {result.versions.get('synco_hub', 'unknown')}"
    )


def write_evaluation_files(directory: Path, results: Sequence[EvaluationResult]) -> None:
    """Make the folder `.eval_results` hold exactly these results."""
    files = render_evaluation_files(results)
    folder = directory / FOLDER
    for stale in folder.glob("*.yaml"):
        if stale.name not in files:
            stale.unlink()
    for name, text in files.items():
        folder.mkdir(exist_ok=True)
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / name)
