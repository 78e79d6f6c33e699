"""`synco-hub list`: the zoo, what is installed, and how to get the rest."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from synco_hub.zoo import list_models as zoo_rows


def list_models(as_json: bool = typer.Option(False, "--json", help="Print rows as JSON.")) -> None:
    """List the checkpoints of the zoo and the installed ones.

    Example: synco-hub list --json
    """
    rows = zoo_rows()
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        where = f"installed: {row.installed}" if row.installed else row.hub_repo or row.how_to_obtain
        print(f"{row.name:<{width}}  {where}")
