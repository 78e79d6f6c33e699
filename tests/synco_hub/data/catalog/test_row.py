from dataclasses import replace

from synco_hub.data.catalog.row import DatasetRow, Metric

ROW = DatasetRow(
    "set", "Set", {"train": ("train",), "test": ("test",)}, {"train": 7, "test": 3}, 2, Metric.top_1, "files"
)


def test_table_9_prints_our_numbers_unless_it_differs():
    assert ROW.table_9 is None
    assert replace(ROW, in_table_9=True).table_9 == {"classes": 2, "train": 7, "test": 3}
    assert replace(ROW, in_table_9=True, printed={"test": 4}).table_9 == {"classes": 2, "train": 7, "test": 4}
