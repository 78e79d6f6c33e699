"""`synco-hub results`: what was measured, side by side with the paper."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

from synco_hub.atomic_write import atomic_write
from synco_hub.results_table import comparison, find_results, to_csv, to_json, to_markdown

results = typer.Typer(no_args_is_help=True, help="Compare results with each other and with the paper.")


class TableFormat(StrEnum):
    """How a table is written."""

    markdown = "markdown"
    csv = "csv"
    json = "json"


_WRITERS = {TableFormat.markdown: to_markdown, TableFormat.csv: to_csv, TableFormat.json: to_json}


@results.callback()
def root() -> None:
    """Compare results with each other and with the paper."""


@results.command("table")
def table(
    paths: list[Path] = typer.Argument(help="Folders with results, or result files."),
    format: TableFormat = typer.Option(TableFormat.markdown, help="Form of the table."),
    output: Path | None = typer.Option(None, help="Write it to this file too."),
    protocol: str | None = typer.Option(None, help="Results of this protocol only, such as knn."),
    paper: bool = typer.Option(True, help="Add the paper's rows where it has the protocol."),
) -> None:
    """One table a protocol; the paper's rows (Tables 12, 13 and 14) stand beside ours.

    Example: synco-hub results table runs results.json --format csv --output comparison.csv
    """
    text = _WRITERS[format](comparison(find_results(paths, protocol), with_paper=paper))
    if output is not None:
        with atomic_write(output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(text, end="")
