"""`synco-hub data`: the data sets of the paper and where they come from."""

from __future__ import annotations

import json
from typing import Any

import typer

from synco_hub.data.catalog import CATALOG
from synco_hub.data.catalog_row import DatasetRow

data = typer.Typer(no_args_is_help=True, help="The data sets of the paper.")


@data.callback()
def root() -> None:
    """The data sets of the paper."""


@data.command("list")
def list_datasets(as_json: bool = typer.Option(False, "--json", help="Print rows as JSON.")) -> None:
    """List every data set of the paper by the name that --dataset takes.

    Example: synco-hub data list --json
    """
    if as_json:
        print(json.dumps([_published(row) for row in CATALOG.values()], indent=2))
        return
    width = max(map(len, CATALOG))
    for row in CATALOG.values():
        counts = ", ".join(f"{split} {count:,}" for split, count in row.counts.items())
        print(f"{row.name:<{width}}  {row.num_classes:>4} classes  {counts:<31}  {row.dataset_id or 'not on the Hub'}")
        if row.difference:
            print(f"{'':<{width}}  {row.difference}")


def _published(row: DatasetRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "dataset_id": row.dataset_id,
        "splits": row.splits,
        "num_classes": row.num_classes,
        "counts": row.counts,
        "metric": row.metric,
        "licence": row.licence,
        "table_9": row.table_9,
        "difference": row.difference,
    }
