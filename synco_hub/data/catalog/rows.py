"""The catalog: every data set of the paper by the name that a user types."""

from __future__ import annotations

import difflib
from pathlib import Path

from synco_hub.data.catalog.robustness import ROBUSTNESS_ROWS
from synco_hub.data.catalog.row import DatasetRow
from synco_hub.data.catalog.transfer import TABLE_9_ROWS

CATALOG: dict[str, DatasetRow] = {row.name: row for row in (*TABLE_9_ROWS, *ROBUSTNESS_ROWS)}


def catalog_row(name: str) -> DatasetRow:
    """Finds a data set of the paper.

    Args:
        name: Such as `imagenet-100`.

    Raises:
        ValueError: If the catalog has no such name; the message has the nearest ones.
    """
    if name not in CATALOG:
        nearest = difflib.get_close_matches(name, CATALOG, n=3)
        meant = f" (did you mean {' or '.join(nearest)}?)" if nearest else ""
        raise ValueError(f"data set {name!r} is not in the catalog{meant}; `synco-hub data list` shows every name.")
    return CATALOG[name]


def row_meant(name: str, data_dir: object = None, dataset_id: object = None) -> DatasetRow | None:
    """The row that the name of a data set means, None where it means a folder or nothing in the catalog.

    An archive often unpacks to a folder of the set's own name. It comes before a bare name, and must not stand for
    the files or the copy that were named beside it.

    Args:
        name: As the user gave it.
        data_dir: `--data-dir`, None if it was not given.
        dataset_id: `--dataset-id`, None if it was not given.
    """
    if data_dir is None and dataset_id is None and Path(name).expanduser().is_dir():
        return None
    return CATALOG.get(name)
