"""From the log of a run to its numbers: the last epoch, the best one, and which classifier is the chosen one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synco_hub.data.real_labels import RealLabels
from synco_hub.evaluation.measurement import find_standard_errors
from synco_hub.results import CHOSEN, EvaluationResult, explain_standard_errors

logger = logging.getLogger(__name__)

_PREFIX = "eval_"


@dataclass(frozen=True)
class Choice:
    """What was chosen, and by which epochs.

    Attributes:
        classifier: Position of the classifier with the highest primary metric in the last epoch.
        last_epoch: Epoch of the last measurement.
        best_epoch: Epoch in which any classifier had the highest primary metric; the first among equals.
    """

    classifier: int
    last_epoch: float
    best_epoch: float


def choose_final_metrics(
    log_history: Sequence[Mapping[str, Any]], suffixes: Sequence[str], primary: str
) -> tuple[dict[str, float], Choice]:
    """Metrics and choice from a Trainer's log, whose entries hold `epoch` and `eval_<metric><suffix>`.

    There is a suffix for each classifier trained side by side. Metrics are `<metric>_last_epoch` of the chosen
    classifier, `<metric>_best_epoch` of the best epoch of any, and `<primary>_last_epoch<suffix>` of each of several.
    """
    measured = [entry for entry in log_history if f"{_PREFIX}{primary}{suffixes[0]}" in entry]
    if not measured:
        raise ValueError("no epoch was measured on the test split: leave --eval-strategy at epoch")
    last = measured[-1]
    in_last = [float(last[f"{_PREFIX}{primary}{suffix}"]) for suffix in suffixes]
    classifier = in_last.index(max(in_last))
    every = [(float(entry[f"{_PREFIX}{primary}{suffix}"]), entry, suffix) for entry in measured for suffix in suffixes]
    _, best, best_suffix = max(every, key=lambda candidate: candidate[0])
    metrics = {
        **_pick_metrics(last, suffixes[classifier], suffixes, "_last_epoch"),
        **_pick_metrics(best, best_suffix, suffixes, "_best_epoch"),
    }
    if len(suffixes) > 1:
        metrics |= {f"{primary}_last_epoch{suffix}": value for suffix, value in zip(suffixes, in_last, strict=True)}
    return metrics, Choice(classifier, float(last["epoch"]), float(best["epoch"]))


def _pick_metrics(entry: Mapping[str, Any], suffix: str, suffixes: Sequence[str], ending: str) -> dict[str, float]:
    """Metrics of one classifier in one entry."""
    names = ("top1", "top5", "top1_real", "mean_per_class", "map_11_point", "map_integral")
    found = {name: entry.get(f"{_PREFIX}{name}{suffix}") for name in names}
    return {name + ending: float(value) for name, value in found.items() if value is not None}


def log_metrics(metrics: Mapping[str, float], errors: Mapping[str, float] | None = None) -> None:
    """Show metrics in percent, a line each, and say which were chosen on the test split."""
    known = errors or {}
    for name, value in metrics.items():
        error = f" ± {known[name]:.2f}" if name in known else ""
        chosen = f"  ({CHOSEN})" if name.endswith("_best_epoch") else ""
        logger.warning("  %-32s %6.2f %%%s%s", name, value, error, chosen)
    for note in explain_standard_errors(known.values()):
        logger.warning("  %s", note)


def show_result(result: EvaluationResult) -> None:
    """Show what was measured, and what a reader has to know."""
    log_metrics(result.metrics, result.standard_errors)
    for note in result.notes:
        logger.warning("  %s", note)


def find_last_errors(metrics: Mapping[str, float], count: int, real: RealLabels | None = None) -> dict[str, float]:
    """Standard errors of the last epoch's accuracies on `count` images; what was chosen on them has another law."""
    return find_standard_errors({name: value for name, value in metrics.items() if "_last_epoch" in name}, count, real)
