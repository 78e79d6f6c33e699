"""Results side by side, one table a protocol, with the paper's rows where it has the protocol."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from synco_hub.paper_tables import paper_table
from synco_hub.results import EvaluationResult


@dataclass(frozen=True)
class TableRow:
    """One line of a comparison.

    Attributes:
        protocol: Which table it belongs to.
        model: Name of the model; for the paper its method and backbone.
        data: Data set and split.
        images: Test images.
        source: "measured here", or which table of the paper.
        metrics: Numbers by name, percent where the metric is a share.
        partial: True if less was measured than the protocol asks for.
    """

    protocol: str
    model: str
    data: str
    images: int
    source: str
    metrics: dict[str, float]
    partial: bool = False


def find_results(paths: Sequence[Path], protocol: str | None = None) -> list[EvaluationResult]:
    """Read results.

    Args:
        paths: Result files, and folders in which every result at any depth is taken; other JSON files there are
            passed over.
        protocol: Take results of this protocol only; a file that is named and is of another one is an error.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a named file is no result or of another protocol, or nothing was found.
    """
    found: list[EvaluationResult] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{str(path)!r} does not exist: give folders or files that `evaluate` wrote to")
        if path.is_file():
            found.append(EvaluationResult.load(path, protocol))
            continue
        for file in sorted(path.rglob("*.json")):
            if (result := _result_or_none(file)) and protocol in (None, result.protocol.name):
                found.append(result)
    if not found:
        wanted = "" if protocol is None else f" of protocol {protocol!r}"
        raise ValueError(f"no result{wanted} in {', '.join(map(str, paths))}: run `synco-hub evaluate` first")
    return found


def _result_or_none(file: Path) -> EvaluationResult | None:
    try:
        return EvaluationResult.load(file)
    except ValueError:
        return None  # settings, configurations and the like lie beside results


def comparison(results: Iterable[EvaluationResult], with_paper: bool = True) -> list[TableRow]:
    """Rows of all results, grouped by protocol, each group followed by the paper's rows for it.

    Args:
        results: What was measured.
        with_paper: Add the paper's rows.
    """
    rows = [
        TableRow(
            result.protocol.name,
            result.model.name,
            f"{result.dataset.name} ({result.dataset.split})",
            result.dataset.count,
            "measured here",
            dict(result.metrics),
            result.partial,
        )
        for result in results
    ]
    grouped: list[TableRow] = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        grouped += [row for row in rows if row.protocol == protocol]
        grouped += paper_rows(protocol) if with_paper else []
    return grouped


def paper_rows(protocol: str) -> list[TableRow]:
    """The paper's own numbers for a protocol, all on the 50,000 validation images of ImageNet; often none.

    Args:
        protocol: `knn` (Table 12) or `linear_probe` (Table 13, column IN).
    """
    if protocol == "knn":
        columns = {"k10": "top1_k10", "k20": "top1_k20", "k100": "top1_k100", "k200": "top1_k200"}
        return [_paper_row(protocol, 12, row, columns) for row in paper_table(12)]
    if protocol == "linear_probe":
        return [_paper_row(protocol, 13, row, {"IN": "top1_last_epoch"}) for row in paper_table(13)]
    return []


def _paper_row(protocol: str, number: int, row: dict[str, str], columns: dict[str, str]) -> TableRow:
    return TableRow(
        protocol,
        f"{row['method']} {row['backbone']}",
        "ImageNet (validation)",
        50_000,
        f"paper, Table {number}",
        {name: float(row[column]) for column, name in columns.items()},
    )


def to_markdown(rows: Sequence[TableRow]) -> str:
    """One Markdown table a protocol; a star marks a partial measurement."""
    parts = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        group = [row for row in rows if row.protocol == protocol]
        names = _metric_names(group)
        lines = [
            "| model | data | images | " + " | ".join(names) + " | source |",
            "|---|---|---:|" + "---:|" * len(names) + "---|",
        ]
        for row in group:
            values = [f"{row.metrics[name]:.2f}" if name in row.metrics else "" for name in names]
            star = "\\*" if row.partial else ""
            cells = [_cell(row.model) + star, _cell(row.data), f"{row.images:,}", *values, row.source]
            lines.append("| " + " | ".join(cells) + " |")
        note = "\n\\* less was measured than the protocol asks for\n" if any(row.partial for row in group) else ""
        parts.append(f"### {protocol}\n\n" + "\n".join(lines) + "\n" + note)
    return "\n".join(parts)


def to_csv(rows: Sequence[TableRow]) -> str:
    """All rows in one table, a column for each metric of any protocol."""
    names = _metric_names(rows)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["protocol", "model", "data", "images", "source", "partial", *names])
    for row in rows:
        values = [row.metrics.get(name, "") for name in names]
        writer.writerow([row.protocol, row.model, row.data, row.images, row.source, row.partial, *values])
    return stream.getvalue()


def to_json(rows: Sequence[TableRow]) -> str:
    """All rows as a JSON list."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False) + "\n"


def _metric_names(rows: Iterable[TableRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
