"""What the paper reports about one method and backbone, read from its tables, each number with its table."""

from __future__ import annotations

from dataclasses import dataclass

from synco_hub.paper_tables import paper_table

_NOT_NUMBERS = ("backbone", "method", "epochs")
_TABLES = {
    12: ("k-NN, top-1 accuracy on ImageNet in percent (section 8.1)", {}),
    13: (
        "linear classifier of clean ImageNet, top-1 accuracy in percent; IN-O: false positive rate at 95 % recall, "
        "lower is better (section 8.2)",
        {"IN-O_FPR95": "IN-O (FPR95)"},
    ),
    14: ("linear classifier under attack, top-1 accuracy on ImageNet in percent (section 8.3)", {"CW": "C&W"}),
}


@dataclass(frozen=True)
class ReportedTable:
    """One row of one table of the paper.

    Attributes:
        number: The table.
        about: What was measured.
        values: Column to number as printed.
    """

    number: int
    about: str
    values: dict[str, str]


def reported_tables(method: str, backbone: str) -> list[ReportedTable]:
    """The rows of Tables 12, 13 and 14 about one checkpoint of the paper.

    Args:
        method: As printed: SynCo-v2, MoBY or BYOL.
        backbone: As printed: DeiT-S or Swin-T.

    Raises:
        ValueError: If the tables have no such row.
    """
    found = []
    for number, (about, renamed) in _TABLES.items():
        rows = [row for row in paper_table(number) if (row["method"], row["backbone"]) == (method, backbone)]
        if len(rows) != 1:
            raise ValueError(f"Table {number} of the paper has no row of {method!r} with {backbone!r}")
        values = {renamed.get(key, key): value for key, value in rows[0].items() if key not in _NOT_NUMBERS}
        found.append(ReportedTable(number, about, values))
    return found


def reported_markdown(method: str, backbone: str) -> str:
    """The same as Markdown, a table each, with its number in the paper above it."""
    parts = []
    for table in reported_tables(method, backbone):
        heads, values = " | ".join(table.values), " | ".join(table.values.values())
        rule = "---:|" * len(table.values)
        parts.append(f"Table {table.number} of the paper: {table.about}.\n\n| {heads} |\n|{rule}\n| {values} |")
    return "\n\n".join(parts)
