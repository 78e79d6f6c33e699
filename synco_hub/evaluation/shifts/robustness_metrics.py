"""From the cells of a robustness table to its numbers: accuracies, mean over corruptions, mCE, watermark gap."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from synco_hub.data.catalog.robustness import BENCHMARK_CORRUPTIONS
from synco_hub.data.corruptions import SEVERITIES
from synco_hub.evaluation.shifts.accuracy_cell import AccuracyCell
from synco_hub.metrics import mean_corruption_error

Cells = Mapping[str, AccuracyCell]


def robustness_metrics(cells: Cells) -> dict[str, float]:
    """Metrics of the cells that are there, in percent.

    Args:
        cells: By key, such as ``imagenet_a`` or ``imagenet_c/fog/3``.

    Returns:
        ``<set>_top1``; for 200-class sets ``<set>_top1_of_200`` and ``<set>_top1_of_1000``; for corruptions each
        cell, the mean of each corruption, and once all 75 cells are there ``<set>_top1``, their plain mean as in the
        paper, and for ImageNet-C ``imagenet_c_mce``; ``imagenet_w_gap``, accuracy with the watermark less clean.
    """
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


def severity_table(family: str, cells: Cells) -> dict[str, list[float | None]]:
    """Accuracy in percent of each corruption at severities 1 to 5, None where it is not measured.

    Args:
        family: ``imagenet_c`` or ``corrupted``.
        cells: By key.
    """
    table: dict[str, list[float | None]] = {}
    for name in BENCHMARK_CORRUPTIONS:
        found = [cells.get(f"{family}/{name}/{severity}") for severity in SEVERITIES]
        if any(found):
            table[name] = [None if cell is None else cell.top1 for cell in found]
    return table


def _corruption_metrics(family: str, cells: Cells) -> dict[str, float]:
    table = severity_table(family, cells)
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
