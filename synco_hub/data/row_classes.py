"""The classes of a table's rows: one list of classes over all of its splits, whatever the column holds.

What the table names (a `ClassLabel`) keeps the table's order. Integers and strings are names: their classes are those
that occur in any split, sorted. So a class that one split lacks has the same number in every split.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from synco_hub.data.image_dataset import UNLABELED
from synco_hub.data.table_files import FileClasses
from synco_hub.data.table_source import DIFFICULT_COLUMN, TableSource, import_datasets

# Up to here the numbers below the highest id count as names in a fingerprint, as they always did.
_NUMBERS_IN_FINGERPRINT = 1_000_000
# Of some rows only: ids that reach no further than so many times their number are taken to be 0, 1, 2, …
_SPARSEST_SAMPLE = 10


@dataclass(frozen=True)
class RowClasses:
    """The classes of a table's rows.

    Attributes:
        labels: Class indices, -1 where a row has none or several. Shape: (num_rows,).
        class_names: In label order; empty without labels.
        multi_hot: For several classes an image. Shape: (num_rows, num_classes).
        named_by_table: The table says which classes there are; otherwise they are those that its rows have.
        identity: What a fingerprint takes of them: of these rows alone, so that it says nothing of other splits.
    """

    labels: npt.NDArray[np.int64]
    class_names: list[str]
    multi_hot: npt.NDArray[np.float32] | None
    named_by_table: bool
    identity: tuple[Iterable[str], npt.NDArray[np.int64]]


def read_row_classes(
    table: Any,
    column: str | None,
    source: TableSource,
    every_split: Sequence[Any] = (),
    files: Sequence[FileClasses] = (),
) -> RowClasses:
    """Reads the classes of all rows; without a column of classes every row is unlabeled.

    Args:
        table: Its rows.
        column: Of the classes.
        source: Names the table; its `max_images` says that the rows are some of many.
        every_split: All splits of the table, whose rows say too which classes there are.
        files: Of the table, in its order, where their lists of classes differ.
    """
    library = import_datasets(source.dataset)
    if column is None:
        nothing = np.full(len(table), UNLABELED, dtype=np.int64)
        return RowClasses(nothing, [], None, True, ((), nothing))
    feature = table.features[column]
    if _is_list(library, feature):
        return _read_lists(library, table, column, source, every_split, files)
    values = _translated(_values(table, column), files)
    if isinstance(feature, library.ClassLabel):
        labels = _as_numbers(values)
        return RowClasses(labels, list(feature.names), None, True, (feature.names, labels))
    others = set(chain.from_iterable(_distinct(split, column) for split in every_split))
    kinds = {type(value) for value in (*set(values), *others) if value is not None}
    if kinds <= {int}:
        return _number_integers(_as_numbers(values), {value for value in others if value is not None}, source)
    if kinds == {str}:
        own, names = ({value for value in found if value is not None} for found in (set(values), {*values, *others}))
        return RowClasses(
            _numbered(values, sorted(names)), sorted(names), None, False, (sorted(own), _numbered(values, sorted(own)))
        )
    raise ValueError(
        f"{source.dataset}: column {column!r} holds {', '.join(sorted(kind.__name__ for kind in kinds))}, but a "
        "class is an integer or a string; name another column with --label-column."
    )


def _values(table: Any, column: str) -> list[Any]:
    values: list[Any] = table.select_columns([column])[:][column]
    return values


def _distinct(table: Any, column: str) -> list[Any]:
    """Values of a column without those that repeat; the rows are not made into objects."""
    return list(table.unique(column)) if column in table.features else []


def _as_numbers(values: Sequence[int | None]) -> npt.NDArray[np.int64]:
    return np.array([UNLABELED if value is None else value for value in values], dtype=np.int64)


def _numbered(values: Sequence[str | None], names: Sequence[str]) -> npt.NDArray[np.int64]:
    index: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    return np.array([index.get(value, UNLABELED) for value in values], dtype=np.int64)


def _translated(values: list[Any], files: Sequence[FileClasses]) -> list[Any]:
    """Class indices in place of numbers that each mean the list of their own file."""
    if not files:
        return values
    numbers = chain.from_iterable([file.numbers] * file.rows for file in files)
    return [
        [own[entry] for entry in value]
        if isinstance(value, list)
        else value
        if value is None or value == UNLABELED
        else own[value]
        for value, own in zip(values, numbers, strict=True)
    ]


def _number_integers(stored: npt.NDArray[np.int64], others: set[int], source: TableSource) -> RowClasses:
    """Ids 0 to n - 1 are class indices; any others are names, and their classes come in ascending order."""
    own = np.unique(stored)
    ids = np.union1d(own, np.array(sorted(others), dtype=np.int64))
    if not _is_name_of_class(UNLABELED, ids):
        ids = ids[ids != UNLABELED]
    highest = int(own.max(initial=UNLABELED))
    dense = len(ids) == 0 or (ids[0] == 0 and ids[-1] == len(ids) - 1)
    if source.max_images is not None and len(ids) and ids[0] >= 0 and ids[-1] < _SPARSEST_SAMPLE * len(ids):
        dense, ids = True, np.arange(ids[-1] + 1)
    names = [str(number) for number in ids.tolist()]
    labels = stored if dense else np.searchsorted(ids, stored)
    if not _is_name_of_class(UNLABELED, ids):
        labels = np.where(stored == UNLABELED, UNLABELED, labels)
    plain = 0 <= highest < _NUMBERS_IN_FINGERPRINT and own[0] >= UNLABELED
    spelled = map(str, range(highest + 1) if plain else own.tolist())
    return RowClasses(labels, names, None, False, (spelled, stored))


def _is_name_of_class(number: int, ids: npt.NDArray[np.int64]) -> bool:
    """Whether -1 is a class, as among other negative ids or in -1 and 1; else a row with it has no class."""
    return number in ids and (bool((ids < number).any()) or ids.tolist() == [-1, 1])


def _is_list(library: Any, feature: Any) -> bool:
    """Whether a column holds a list per row; the library has several spellings of one."""
    return isinstance(feature, (list, library.List, library.LargeList)) or type(feature).__name__.startswith("Array")


def _read_lists(
    library: Any,
    table: Any,
    column: str,
    source: TableSource,
    every_split: Sequence[Any],
    files: Sequence[FileClasses],
) -> RowClasses:
    feature, values = table.features[column], _translated(_values(table, column), files)
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    names = list(inner.names) if isinstance(inner, library.ClassLabel) else []
    named = bool(names or source.num_classes)
    others = [] if named else [_values(split, column) for split in every_split if column in split.features]
    rows, found = encode_multi_hot([*values, *chain(*others)], names, source.num_classes, source.dataset)
    rows = rows[: len(values)]
    # A fingerprint is of these rows alone, with every number below the highest, as it always was.
    highest = 0 if named else max((entry for each in values for entry in each or () if type(entry) is int), default=0)
    alone = highest < _NUMBERS_IN_FINGERPRINT and not named
    own = encode_multi_hot(values, names, None, source.dataset, gaps=True) if alone else (rows, found)
    if DIFFICULT_COLUMN in table.features and column != DIFFICULT_COLUMN:
        difficult = _translated(_values(table, DIFFICULT_COLUMN), files)
        rows = without_difficult(rows, difficult)
        own = (without_difficult(own[0], difficult), own[1]) if alone else (rows, found)
    nothing = np.full(len(table), UNLABELED, dtype=np.int64)
    return RowClasses(nothing, found, rows, named, (own[1], own[0].astype(np.int64)))


def encode_multi_hot(
    values: Sequence[Any], class_names: Sequence[str], num_classes: int | None, source: str, gaps: bool = False
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Reads a column of lists: of class indices, of class names, or of a number for every class.

    Lists of one length above 1 with nothing but -1, 0 and 1, and at least one 0 or -1, are rows themselves, where
    their length is that of the classes or no names are known. Everything else is indices or names of the classes.
    Of unknown classes those exist whose index or name occurs; with `gaps` every index below the highest too.
    """
    lists = [list(value) if value is not None else [] for value in values]
    known = len(class_names) or num_classes
    entries = {entry for each in lists for entry in each}
    lengths = {len(each) for each in lists}
    rows_fit = len(lengths) == 1 and (known in lengths if known else max(lengths, default=0) > 1)
    if rows_fit and entries <= {-1, 0, 1} and not entries <= {1}:
        rows = np.array(lists, dtype=np.float32)
        return rows, list(class_names) or [str(number) for number in range(rows.shape[1])]
    if entries and all(isinstance(entry, str) for entry in entries):
        names = list(class_names) or sorted(map(str, entries))
        index = {name: number for number, name in enumerate(names)}
        strangers = sorted(str(entry) for entry in entries if entry not in index)
        if strangers:
            raise ValueError(f"{source}: {strangers[0]!r} is not among its {len(names)} classes.")
        return _filled([[index[entry] for entry in each] for each in lists], len(names)), names
    if not all(isinstance(entry, int | np.integer) and not isinstance(entry, bool) for entry in entries):
        kinds = ", ".join(sorted({type(entry).__name__ for entry in entries}))
        raise ValueError(
            f"{source}: its lists of classes hold {kinds}, where indices, names or -1, 0 and 1 are known; name "
            "another column with --label-column."
        )
    ids = sorted(entries)
    if not known and not gaps and ids != list(range(len(ids))):
        place = {number: position for position, number in enumerate(ids)}
        return _filled([[place[entry] for entry in each] for each in lists], len(ids)), [str(number) for number in ids]
    count = known or int(max(entries, default=-1)) + 1
    if entries and not 0 <= min(entries) <= max(entries) < count:
        raise ValueError(
            f"{source}: classes {min(entries)} to {max(entries)}, where there are {count}; check the label column."
        )
    return _filled(lists, count), list(class_names) or [str(number) for number in range(count)]


def _filled(present: Sequence[Sequence[int]], num_classes: int) -> npt.NDArray[np.float32]:
    rows = np.zeros((len(present), num_classes), dtype=np.float32)
    for row, classes in zip(rows, present, strict=True):
        row[list(classes)] = 1.0
    return rows


def without_difficult(
    rows: npt.NDArray[np.float32], difficult: Sequence[Sequence[int] | None]
) -> npt.NDArray[np.float32]:
    """Rows in which a class does not count (-1) that has difficult instances only."""
    marked = rows.copy()
    for row, classes in zip(marked, difficult, strict=True):
        for number in classes or ():
            row[number] = 1.0 if row[number] == 1.0 else -1.0
    return marked
