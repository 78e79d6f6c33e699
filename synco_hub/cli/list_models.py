"""`synco-hub list`: the zoo, what is installed and where from, and how to get the rest; answers without torch."""

from __future__ import annotations

import json
from dataclasses import asdict

from synco_hub.cli.options import ListOptions
from synco_hub.zoo import ZooRow
from synco_hub.zoo import list_models as zoo_rows


def list_models(options: ListOptions) -> None:
    """`synco-hub list`."""
    rows = zoo_rows()
    if options.as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {_where(row)}")


def _where(row: ZooRow) -> str:
    numbers = _numbers(row)
    if row.installed:
        source = f", from {row.source}" if row.source else ""
        revision = f" at {row.revision[:12]}" if row.revision else ""
        instead = "" if row.embedded is None or row.measured else " in place of the one that ships"
        return f"installed{instead}: {row.installed}{source}{revision}{numbers}"
    if row.embedded:
        return f"ships with the package{numbers}"
    if row.hub_repo:
        return f"`synco-hub pull {row.name}` takes it from {row.hub_repo}"
    return row.how_to_obtain


def _numbers(row: ZooRow) -> str:
    """What was measured here; the paper's numbers are of other weights than anybody can have from here."""
    value = row.measured.get("fractals_knn10_top1")
    return "" if value is None else f"; measured: k-NN top-1 (k = 10) on fractals {value:.1f} %"
