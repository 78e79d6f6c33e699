"""The tables of the paper's supplement as data; every number here is the paper's, none is measured by this project."""

from __future__ import annotations

import csv
from pathlib import Path

_FILES = {
    9: "table09_datasets.csv",
    10: "table10_architectures.csv",
    11: "table11_augmentations.csv",
    12: "table12_knn.csv",
    13: "table13_robustness.csv",
    14: "table14_adversarial.csv",
    15: "table15_efficiency.csv",
}


def read_paper_table(number: int) -> list[dict[str, str]]:
    """Rows of one table, each a mapping from column to text as printed."""
    if number not in _FILES:
        raise ValueError(f"table {number} is not in the paper's supplement: use one of {', '.join(map(str, _FILES))}")
    with (Path(__file__).parent / _FILES[number]).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
