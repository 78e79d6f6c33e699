"""Results side by side, one table a protocol, with the paper's rows where it has the protocol."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from synco_hub.paper_tables import read_paper_table
from synco_hub.results import CHOSEN, EvaluationResult, explain_standard_errors

_DRAWN_HERE = "robustness_on_the_fly"
_ALL_CORRUPTIONS = {"imagenet_c_top1", "corrupted_top1"}
_DETECTION_NOTES = (
    "FPR95: share of the known images that are taken for unknown by the threshold that finds 95 % of the unknown ones "
    "(guessing: 95). AUROC: guessing has 50. AUPR: unknown images are the positives, so guessing has their share.",
    "CSV and JSON hold the same with known images as the positives (*_known_positive), and more.",
)


@dataclass(frozen=True)
class PaperColumns:
    """Where the paper has a protocol.

    Attributes:
        number: Of its table.
        columns: Column of the table to the metric that it is compared with.
        data: What was measured.
        images: Test images.
        datasets: What results call this data; all others are data sets of one's own.
    """

    number: int
    columns: dict[str, str]
    data: str = "ImageNet (validation)"
    images: int = 50_000
    datasets: tuple[str, ...] = ("imagenet-1k", "ILSVRC/imagenet-1k")


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
        ("ImageNet variants",),
    ),
    "ood": PaperColumns(13, {"IN-O_FPR95": "fpr95_msp"}, "imagenet-o (test)", 2_000, ("imagenet-o",)),
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
        times: How often each image was measured, once for each corruption.
        standard_errors: Of metrics, by name.
        papers_data: Whether the data is what the paper measured.
        known_images: Of a detection, images that are not to be detected.
    """

    protocol: str
    model: str
    data: str
    images: int
    source: str
    metrics: dict[str, float]
    partial: bool = False
    null_metrics: tuple[str, ...] = ()
    times: int = 1
    standard_errors: dict[str, float] = field(default_factory=dict)
    papers_data: bool = False
    known_images: int | None = None


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
    rows = [_make_row(result) for result in results]
    grouped: list[TableRow] = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        grouped += [row for row in rows if row.protocol == protocol]
        grouped += find_paper_rows(protocol) if with_paper else []
    return grouped


def _make_row(result: EvaluationResult) -> TableRow:
    images, times = result.dataset.count, 1
    cells = result.protocol.parameters.get("cells")
    if cells and result.protocol.name == _DRAWN_HERE:
        # Older versions counted an image once for each corruption.
        images, times = max(cell["images"] for cell in cells.values()), len(cells)
    paper = PAPER_COLUMNS.get(result.protocol.name)
    return TableRow(
        result.protocol.title,
        result.model.name,
        f"{result.dataset.name} ({result.dataset.split})",
        images,
        "measured here",
        dict(result.metrics),
        result.partial,
        _find_null_metrics(result),
        times,
        dict(result.standard_errors),
        paper is not None and result.dataset.name in paper.datasets,
        result.protocol.parameters.get("in-distribution images"),
    )


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
            papers_data=True,
        )
        for row in read_paper_table(where.number)
    ]


def _find_null_metrics(result: EvaluationResult) -> tuple[str, ...]:
    attacks = result.protocol.parameters.get("attacks", {})
    return tuple(f"top1_{name}" for name, facts in attacks.items() if facts.get("null"))


def to_markdown(rows: Sequence[TableRow]) -> str:
    """One Markdown table a protocol, and a second one for the paper's data where there is other data beside it.

    A star marks a partial measurement.
    """
    parts = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        group = [row for row in rows if row.protocol == protocol]
        own, papers = ([row for row in group if row.papers_data is side] for side in (False, True))
        parts.append(f"### {protocol}\n\n" + _render_table(protocol, own or papers))
        if own and papers:
            parts.append(f"#### {protocol}, the paper's data: {papers[-1].data}\n\n" + _render_table(protocol, papers))
        notes = list(explain_standard_errors(error for row in group for error in row.standard_errors.values()))
        notes += list(_DETECTION_NOTES) if protocol.startswith("ood") else []
        notes += [f"best_epoch: {CHOSEN}"] if any(map(_is_chosen, _metric_names(group))) else []
        notes += ["\\* less was measured than the protocol asks for"] if any(row.partial for row in group) else []
        parts += [f"{note}\n" for note in notes]
    return "\n".join(parts)


def _render_table(protocol: str, rows: Sequence[TableRow]) -> str:
    if protocol.startswith("ood"):
        return _render_detection(rows)
    names = _shown(protocol, rows)
    titles = [f"{name} ({CHOSEN})" if _is_chosen(name) else name for name in names]
    lines = [
        "| model | data | images | " + " | ".join(titles) + " | source |",
        "|---|---|---:|" + "---:|" * len(names) + "---|",
    ]
    lines += [_join([*_begin(row), *(_value(row, name) for name in names), row.source]) for row in rows]
    return "\n".join(lines) + "\n"


def _render_detection(rows: Sequence[TableRow]) -> str:
    """A line for each score, whose metrics stand side by side."""
    lines = ["| model | data | images | score | FPR95 | AUROC | AUPR | AUPR by chance | source |"]
    lines.append("|---|---|---:|---|---:|---:|---:|---:|---|")
    for row in rows:
        chance = "" if row.known_images is None else f"{100 * row.images / (row.images + row.known_images):.2f}"
        found = [name.removeprefix("fpr95_") for name in row.metrics if name.startswith("fpr95_")]
        for score in (name for name in found if not name.startswith("known_positive")):
            values = [_value(row, f"{metric}_{score}") for metric in ("fpr95", "auroc", "aupr")]
            lines.append(_join([*_begin(row), score, *values, chance, row.source]))
    return "\n".join(lines) + "\n"


def _begin(row: TableRow) -> list[str]:
    images = f"{row.images:,}" if row.times == 1 else f"{row.images:,} × {row.times}"
    return [_cell(row.model) + ("\\*" if row.partial else ""), _cell(row.data), images]


def _join(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _is_chosen(name: str) -> bool:
    return name.endswith("_best_epoch")


def to_csv(rows: Sequence[TableRow]) -> str:
    """All rows in one table, a column for each metric of any protocol."""
    names = _metric_names(rows)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    errors = [name for name in names if any(name in row.standard_errors for row in rows)]
    titles = [*names, *(f"{name}_standard_error" for name in errors)]
    writer.writerow(["protocol", "model", "data", "images", "times", "source", "partial", *titles])
    for row in rows:
        values = [row.metrics.get(name, "null" if name in row.null_metrics else "") for name in names]
        values += [row.standard_errors.get(name, "") for name in errors]
        writer.writerow([row.protocol, row.model, row.data, row.images, row.times, row.source, row.partial, *values])
    return stream.getvalue()


def to_json(rows: Sequence[TableRow]) -> str:
    """All rows as a JSON list."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False) + "\n"


def _metric_names(rows: Iterable[TableRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in (*row.metrics, *row.null_metrics)))


def _shown(protocol: str, rows: Sequence[TableRow]) -> list[str]:
    """The metrics that people read in a table; CSV and JSON carry all of them."""
    names = _metric_names(rows)
    if protocol.startswith("adversarial"):
        return [name for name in names if name.startswith("top1_")]
    if protocol.startswith("segmentation"):
        return [name for name in names if not name.startswith("iou_")]
    if protocol.startswith("robustness"):
        # 75 cells, and 15 means that are left out where they are summed up in one of all.
        cell, mean = (re.compile(rf"(imagenet_c|corrupted)_\w+{end}_top1") for end in ("_[1-5]", ""))
        alone = {name for row in rows if not _ALL_CORRUPTIONS & row.metrics.keys() for name in row.metrics}
        return [name for name in names if not cell.fullmatch(name) and (name in alone or not mean.fullmatch(name))]
    return names


def _value(row: TableRow, name: str) -> str:
    if name in row.metrics:
        error = f" ± {row.standard_errors[name]:.2f}" if name in row.standard_errors else ""
        return f"{row.metrics[name]:.2f}{error}"
    return "null" if name in row.null_metrics else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
