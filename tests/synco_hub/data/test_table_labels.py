from typing import Any

import pytest

from synco_hub.data.hub_source import HubSource
from synco_hub.data.table_labels import classes_of_rows

datasets = pytest.importorskip("datasets")

CLASSES = datasets.ClassLabel(names=["cat", "dog", "owl"])


def read(values: list[Any], feature: Any, **more: list[Any]) -> Any:
    features = {"label": feature, **dict.fromkeys(more, datasets.Sequence(CLASSES))}
    table = datasets.Dataset.from_dict({"label": values, **more}, features=datasets.Features(features))
    return classes_of_rows(table, "label", HubSource("a/b"))


@pytest.mark.parametrize(
    ("values", "feature", "labels", "names", "named"),
    [
        ([2, 0, None], CLASSES, [2, 0, -1], ["cat", "dog", "owl"], True),
        ([4, 0, 4], datasets.Value("int32"), [4, 0, 4], ["0", "1", "2", "3", "4"], False),
        (["n02", None, "n01"], datasets.Value("string"), [1, -1, 0], ["n01", "n02"], False),
    ],
)
def test_one_class_a_row(values: Any, feature: Any, labels: Any, names: Any, named: bool) -> None:
    classes = read(values, feature)
    assert (classes.labels.tolist(), classes.class_names) == (labels, names)
    assert (classes.multi_hot, classes.named_by_table) == (None, named)


def test_several_classes_a_row_with_difficult_ones() -> None:
    classes = read([[2, 0], [], [1]], datasets.Sequence(CLASSES), difficult=[[1], [0, 2], None])
    assert classes.multi_hot.tolist() == [[1, -1, 1], [-1, 0, -1], [0, 1, 0]]
    assert (classes.labels.tolist(), classes.class_names) == ([-1, -1, -1], ["cat", "dog", "owl"])


def test_rows_without_a_column_of_classes_and_columns_of_something_else() -> None:
    table = datasets.Dataset.from_dict({"n": [1.5, 2.5]})
    classes = classes_of_rows(table, None, HubSource("a/b"))
    assert (classes.labels.tolist(), classes.class_names) == ([-1, -1], [])
    with pytest.raises(ValueError, match=r"'n' holds float, but a class is an integer or a string.*--label-column"):
        classes_of_rows(table, "n", HubSource("a/b"))
