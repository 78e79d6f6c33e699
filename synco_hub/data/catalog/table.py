"""The catalog as the README's table."""

from __future__ import annotations

from collections.abc import Iterable

from synco_hub.data.catalog.row import DatasetRow

BEGIN = "<!-- data table: made by `synco-hub data list --markdown` -->"
END = "<!-- end of data table -->"


def catalog_markdown(rows: Iterable[DatasetRow]) -> str:
    """One line a set: name, copy on the Hub, classes, images, metric, whether a licence has to be accepted first.

    Args:
        rows: Rows of the catalog.

    Returns:
        A Markdown table, each line ended.
    """
    lines = [
        "| `--dataset` | on the Hub | classes | train | test | metric | gated |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        copy = f"`{row.dataset_id}`" if row.dataset_id and row.is_table else "files only"
        copy = f"with `{row.base}`" if row.base else "drawn here" if row.name == "fractals" else copy
        counts = " | ".join(f"{row.counts[split]:,}" if split in row.counts else "–" for split in ("train", "test"))
        gated = "yes" if row.gated else "no"
        lines.append(f"| `{row.name}` | {copy} | {row.num_classes} | {counts} | {row.metric} | {gated} |")
    return "\n".join(lines) + "\n"
