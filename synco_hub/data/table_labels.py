"""The classes of a table's rows: one an image, or several."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from synco_hub.data.hub_source import HubSource, datasets_library
from synco_hub.data.image_dataset import UNLABELED
from synco_hub.data.multi_hot import multi_hot_of_lists, without_difficult
from synco_hub.data.table_columns import DIFFICULT_COLUMN


@dataclass(frozen=True)
class RowClasses:
    """The classes of a table's rows.

    Attributes:
        labels: Class indices, -1 where a row has none or several. Shape: (num_rows,).
        class_names: In label order; empty without labels.
        multi_hot: For several classes an image. Shape: (num_rows, num_classes).
        named_by_table: The table says which classes there are; otherwise they are those that its rows have.
    """

    labels: npt.NDArray[np.int64]
    class_names: list[str]
    multi_hot: npt.NDArray[np.float32] | None
    named_by_table: bool


def classes_of_rows(table: Any, column: str | None, source: HubSource) -> RowClasses:
    """Reads the classes of all rows.

    Args:
        table: A map-style `datasets.Dataset`.
        column: Column of classes; None for a table without.
        source: For messages, and for the number of classes where the table does not tell.

    Raises:
        ValueError: If the column holds no classes.
    """
    library = datasets_library(source.dataset_id)
    if column is not None and _is_list(library, table.features[column]):
        multi_hot, class_names = _multi_hot(library, table, column, source)
        return RowClasses(np.full(len(table), UNLABELED, dtype=np.int64), class_names, multi_hot, True)
    labels, class_names = _labels(library, table, column, source)
    named = column is None or isinstance(table.features[column], library.ClassLabel)
    return RowClasses(labels, class_names, None, named)


def _is_list(library: Any, feature: Any) -> bool:
    """Whether a column holds a list per row; the library has several spellings of one."""
    return isinstance(feature, (list, library.List, library.LargeList)) or type(feature).__name__.startswith("Array")


def _multi_hot(library: Any, table: Any, column: str, source: HubSource) -> tuple[npt.NDArray[np.float32], list[str]]:
    feature, values = table.features[column], table.select_columns([column])[:][column]
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    names = list(inner.names) if isinstance(inner, library.ClassLabel) else []
    rows, names = multi_hot_of_lists(values, names, source.num_classes, source.dataset_id)
    if DIFFICULT_COLUMN in table.features and column != DIFFICULT_COLUMN:
        rows = without_difficult(rows, table.select_columns([DIFFICULT_COLUMN])[:][DIFFICULT_COLUMN])
    return rows, names


def _labels(
    library: Any, table: Any, column: str | None, source: HubSource
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Class indices and names: of a ClassLabel as published, of integers as they are, of strings in sorted order."""
    if column is None:
        return np.full(len(table), UNLABELED, dtype=np.int64), []
    feature, values = table.features[column], table.select_columns([column])[:][column]
    if isinstance(feature, library.ClassLabel):
        labels = np.array([UNLABELED if value is None else value for value in values], dtype=np.int64)
        return labels, list(feature.names)
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int}:
        labels = np.array([UNLABELED if value is None else value for value in values], dtype=np.int64)
        return labels, [str(number) for number in range(int(labels.max(initial=UNLABELED)) + 1)]
    if kinds == {str}:
        class_names = sorted({value for value in values if value is not None})
        index: dict[str | None, int] = {name: number for number, name in enumerate(class_names)}
        return np.array([index.get(value, UNLABELED) for value in values], dtype=np.int64), class_names
    raise ValueError(
        f"{source.dataset_id}: column {column!r} holds {', '.join(sorted(kind.__name__ for kind in kinds))}, but a "
        "class is an integer or a string; name another column with --label-column."
    )
