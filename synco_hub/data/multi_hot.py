"""Several classes an image: from whatever a table holds to rows of 1 present, 0 absent, -1 neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def multi_hot_of_lists(
    values: Sequence[Any], class_names: Sequence[str], num_classes: int | None, source: str
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Reads a column of lists: of class indices, of class names, or of a number for every class.

    Lists of one length above 1 with nothing but -1, 0 and 1, and at least one 0 or -1, are rows themselves, where
    their length is that of the classes or no names are known. Everything else is indices or names of the classes.

    Args:
        values: One list per image.
        class_names: In label order; empty where the table has none.
        num_classes: Number of classes, where it is known.
        source: Names the data in an error.

    Returns:
        Rows, shape (num_images, num_classes), and one name for each class.

    Raises:
        ValueError: If a list holds something else, or an index beyond the classes.
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
    """Rows in which a class does not count that has difficult instances only.

    Args:
        rows: 1 present, 0 absent. Shape: (num_images, num_classes).
        difficult: Class indices per image.
    """
    marked = rows.copy()
    for row, classes in zip(marked, difficult, strict=True):
        for number in classes or ():
            row[number] = 1.0 if row[number] == 1.0 else -1.0
    return marked
