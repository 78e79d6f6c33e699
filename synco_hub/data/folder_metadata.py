"""Classes of a folder's images from `metadata.csv`, `metadata.jsonl` or `metadata.parquet` beside them.

The convention is that of `datasets.ImageFolder`: a column `file_name`, relative to the file's own folder, and others.
"""

from __future__ import annotations

import csv
import importlib
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_USUAL_LABEL_COLUMNS = ("label", "class", "class_name", "category", "target", "labels")


@dataclass(frozen=True)
class Metadata:
    """What the metadata files of a folder say.

    Attributes:
        classes: Class of each image that they name, by its path below the folder; None for one without.
        problems: Why a file says nothing, one sentence each.
    """

    classes: Mapping[str, str | None]
    problems: Sequence[str]


def read_metadata(folder: Path, files: Sequence[str], label_column: str | None = None) -> Metadata:
    """Reads the metadata files of a folder; where two name an image, the one nearer to it counts.

    Args:
        folder: What all paths are relative to.
        files: Paths of the metadata files.
        label_column: The column of classes; None takes the first of the usual names that is there.

    Raises:
        ValueError: If a label column is named and a file cannot be read or lacks it.
    """
    classes: dict[str, str | None] = {}
    problems = []
    for file in sorted(files, key=lambda name: name.count("/")):
        try:
            rows = _read_rows(folder / file)
            columns = list(dict.fromkeys(column for row in rows for column in row))
            names = _find_name_column(folder / file, columns)
            column = _find_label_column(folder / file, rows, columns, label_column)
        except ValueError as error:
            # Before it was read, the file did no harm.
            if label_column is not None:
                raise
            problems.append(str(error))
            continue
        for row in rows:
            if row.get(names):
                path = posixpath.normpath(posixpath.join(posixpath.dirname(file), str(row[names])))
                classes[path] = _name_class(row.get(column))
    return Metadata(classes, problems)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            # Not at the top: only this form needs it, and folders are read without it.
            rows: list[dict[str, Any]] = importlib.import_module("pyarrow.parquet").read_table(path).to_pylist()
            return rows
        # A byte order mark is Excel's; names that are no UTF-8 are those of the disk.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            return list(csv.DictReader(stream) if path.suffix == ".csv" else _parse_lines(stream))
    except Exception as error:
        # The libraries answer damaged files with errors of their own.
        raise ValueError(
            f"{path} cannot be read as metadata ({type(error).__name__}: {error}); repair or rename it."
        ) from error


def _parse_lines(stream: Iterable[str]) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in stream if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise TypeError("each line is a mapping of columns to values")
    return rows


def _find_name_column(path: Path, columns: Sequence[str]) -> str:
    found = [column for column in columns if column == "file_name" or column.endswith("_file_name")]
    if not found:
        raise ValueError(
            f"{path} has no column file_name among {', '.join(columns)}; name the image of each row there, or rename "
            "the file if it is about something else."
        )
    return "file_name" if "file_name" in found else found[0]


def _find_label_column(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], given: str | None
) -> str:
    if given is not None:
        if given not in columns:
            raise ValueError(f"{path} has no column {given!r}; give --label-column one of {', '.join(columns)}.")
        if any(isinstance(row.get(given), list | dict) for row in rows):
            raise ValueError(f"{path}: column {given!r} holds lists or mappings; --label-column names one of classes.")
        return given
    for usual in _USUAL_LABEL_COLUMNS:
        if usual in columns and not any(isinstance(row.get(usual), list | dict) for row in rows):
            return usual
    raise ValueError(
        f"{path} says of no image what class it has: none of its columns {', '.join(columns)} is called label; name "
        "the one of the classes with --label-column."
    )


def _name_class(value: object) -> str | None:
    if value is None or value == "":
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
