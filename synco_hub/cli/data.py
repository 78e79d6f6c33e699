"""`synco-hub data`: the data sets of the paper and where they come from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
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
    from synco_hub.data.catalog import CATALOG  # torch comes with it: only when the command runs, never for --help

    if as_json:
        print(json.dumps([_published(row) for row in CATALOG.values()], indent=2))
        return
    width = max(map(len, CATALOG))
    for row in CATALOG.values():
        counts = ", ".join(f"{split} {count:,}" for split, count in row.counts.items())
        print(f"{row.name:<{width}}  {row.num_classes:>4} classes  {counts:<31}  {row.dataset_id or 'not on the Hub'}")
        if row.difference:
            print(f"{'':<{width}}  {row.difference}")


@data.command("verify")
def verify(
    name: str = typer.Argument(help="A name of `synco-hub data list`."),
    data_dir: str | None = typer.Option(None, help="Folder with the files; without it the Hub copy is downloaded."),
) -> None:
    """Count images and classes of each split against the catalog; exit code 1 where they differ.

    Example: synco-hub data verify imagenet-a --data-dir ~/imagenet-a
    """
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.data import load_dataset
    from synco_hub.data.catalog import catalog_row
    from synco_hub.data.verification import verify_split

    row = catalog_row(name)
    verdicts = [verify_split(row, load_dataset(name, split, data_dir=data_dir), split) for split in row.splits]
    for verdict in verdicts:
        printed = f", Table 9 prints {row.table_9[verdict.split]:,}" if row.table_9 else ""
        print(
            f"{'agrees ' if verdict.agrees else 'DIFFERS'}  {verdict.split}: {verdict.images:,} images of "
            f"{verdict.expected_images:,}{printed}; {verdict.classes} classes of {verdict.expected_classes}"
        )
    if row.difference:
        print(row.difference)
    if not all(verdict.agrees for verdict in verdicts):
        raise typer.Exit(1)


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
