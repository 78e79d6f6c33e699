"""Results side by side, one table a protocol, with the paper's rows where it has the protocol."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from synco_hub.paper_tables import read_paper_table
from synco_hub.results import EvaluationResult


@dataclass(frozen=True)
class PaperColumns:
    """Where the paper has a protocol.

    Attributes:
        number: Of its table.
        columns: Column of the table to the metric that it is compared with.
        data: What was measured.
        images: Test images.
    """

    number: int
    columns: dict[str, str]
    data: str = "ImageNet (validation)"
    images: int = 50_000


PAPER_COLUMNS = {
    "knn": PaperColumns(12, {"k10": "top1_k10", "k20": "top1_k20", "k100": "top1_k100", "k200": "top1_k200"}),
    "linear_probe": PaperColumns(13, {"IN": "top1_last_epoch"}),
    "robustness": PaperColumns(
        13,
        {
            "IN": "imagenet_top1",
            "IN-v2-MF": "imagenet_v2_mf_top1",
            "IN-v2-T0.7": "imagenet_v2_t0.7_top1",
            "IN-v2-TI": "imagenet_v2_ti_top1",
            "IN-C": "imagenet_c_top1",
            # The paper does not say whether A and R are of 200 or of 1000 classes: 200 is their authors' protocol.
            "IN-A": "imagenet_a_top1_of_200",
            "IN-W": "imagenet_w_top1",
            "IN-S": "imagenet_sketch_top1",
            "IN-R": "imagenet_r_top1_of_200",
        },
        "ImageNet variants (test)",
        # IN, W and 75 cells of C of 50,000 each, V2 three times 10,000, A, Sketch, R.
        77 * 50_000 + 3 * 10_000 + 7_500 + 50_889 + 30_000,
    ),
    "ood": PaperColumns(13, {"IN-O_FPR95": "fpr95_msp"}, "imagenet-o (test)", 2_000),
    "adversarial": PaperColumns(
        14,
        {
            "clean": "top1_clean",
            "FGSM": "top1_fgsm",
            "PGD": "top1_pgd",
            "CW": "top1_cw",
            "Square": "top1_square",
            "AutoAttack": "top1_autoattack",
            "TIFGSM": "top1_tifgsm",
            "OnePixel": "top1_one_pixel",
        },
    ),
}


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
        null_metrics: Metrics that have no value because an attack left every input as it was.
    """

    protocol: str
    model: str
    data: str
    images: int
    source: str
    metrics: dict[str, float]
    partial: bool = False
    null_metrics: tuple[str, ...] = ()


def find_results(paths: Sequence[Path], protocol: str | None = None) -> list[EvaluationResult]:
    """Read results."""
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


def compare_results(results: Iterable[EvaluationResult], with_paper: bool = True) -> list[TableRow]:
    """Rows of all results, grouped by protocol, each group followed by the paper's rows for it."""
    rows = [
        TableRow(
            result.protocol.name,
            result.model.name,
            f"{result.dataset.name} ({result.dataset.split})",
            result.dataset.count,
            "measured here",
            dict(result.metrics),
            result.partial,
            _find_null_metrics(result),
        )
        for result in results
    ]
    grouped: list[TableRow] = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        grouped += [row for row in rows if row.protocol == protocol]
        grouped += find_paper_rows(protocol) if with_paper else []
    return grouped


def find_paper_rows(protocol: str) -> list[TableRow]:
    """The paper's own numbers for a protocol; often none."""
    if protocol not in PAPER_COLUMNS:
        return []
    where = PAPER_COLUMNS[protocol]
    return [
        TableRow(
            protocol,
            f"{row['method']} {row['backbone']}",
            where.data,
            where.images,
            f"paper, Table {where.number}",
            {name: float(row[column]) for column, name in where.columns.items()},
        )
        for row in read_paper_table(where.number)
    ]


def _find_null_metrics(result: EvaluationResult) -> tuple[str, ...]:
    attacks = result.protocol.parameters.get("attacks", {})
    return tuple(f"top1_{name}" for name, facts in attacks.items() if facts.get("null"))


def to_markdown(rows: Sequence[TableRow]) -> str:
    """One Markdown table a protocol; a star marks a partial measurement."""
    parts = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        group = [row for row in rows if row.protocol == protocol]
        names = _shown(protocol, _metric_names(group))
        lines = [
            "| model | data | images | " + " | ".join(names) + " | source |",
            "|---|---|---:|" + "---:|" * len(names) + "---|",
        ]
        for row in group:
            values = [_value(row, name) for name in names]
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
        values = [row.metrics.get(name, "null" if name in row.null_metrics else "") for name in names]
        writer.writerow([row.protocol, row.model, row.data, row.images, row.source, row.partial, *values])
    return stream.getvalue()


def to_json(rows: Sequence[TableRow]) -> str:
    """All rows as a JSON list."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False) + "\n"


def _metric_names(rows: Iterable[TableRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in (*row.metrics, *row.null_metrics)))


def _shown(protocol: str, names: Sequence[str]) -> list[str]:
    """The metrics that people read in a table; CSV and JSON carry all of them."""
    if protocol.startswith("adversarial"):
        return [name for name in names if name.startswith("top1_")]
    if protocol.startswith("robustness"):
        single = ("imagenet_c_", "corrupted_")  # 75 cells and 15 means
        kept = ("imagenet_c_top1", "imagenet_c_mce", "corrupted_top1")
        return [name for name in names if name in kept or not name.startswith(single)]
    if protocol.startswith("ood"):
        return [name for name in names if not name.startswith("tied_share")]
    return list(names)


def _value(row: TableRow, name: str) -> str:
    if name in row.metrics:
        return f"{row.metrics[name]:.2f}"
    return "null" if name in row.null_metrics else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
