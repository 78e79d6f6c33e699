from synco_hub.data.catalog.row import Metric
from synco_hub.data.catalog.transfer import TABLE_9_ROWS

ROWS = {row.name: row for row in TABLE_9_ROWS}

TABLE_9 = {
    "imagenet-1k": (1000, 1281167, 50000),
    "imagenet-100": (100, 128116, 5000),
    "cifar10": (10, 50000, 10000),
    "cifar100": (100, 50000, 10000),
    "flowers102": (102, 2040, 6149),
    "oxford-pets": (37, 3680, 3669),
    "food101": (101, 75750, 25250),
    "stanford-cars": (196, 8144, 8041),
    "caltech101": (101, 3060, 6085),
    "dtd": (47, 3760, 1880),
    "fgvc-aircraft": (100, 6667, 3333),
    "sun397": (397, 19850, 19850),
    "voc2007": (20, 5011, 4952),
}


def test_table_9():
    assert {name: tuple(row.table_9.values()) for name, row in ROWS.items()} == TABLE_9


def test_only_two_sets_differ_from_table_9():
    assert [row.name for row in TABLE_9_ROWS if row.printed] == ["imagenet-100", "caltech101"]
    assert ROWS["imagenet-100"].counts["train"] == 126689
    # The whole archive: 102 folders, 30 of each for training, the rest in Table 9's test column.
    assert ROWS["caltech101"].counts["train"] == 102 * 30
    assert ROWS["caltech101"].counts["train"] + ROWS["caltech101"].table_9["test"] == 9145


def test_training_splits_of_several_stored_ones():
    several = {row.name: row.splits["train"] for row in TABLE_9_ROWS if len(row.splits["train"]) > 1}
    assert several == {"flowers102": ("train", "validation"), "fgvc-aircraft": ("train", "val")}


def test_metrics_of_the_transfer_benchmark():
    mean_per_class = {row.name for row in TABLE_9_ROWS if row.metric is Metric.mean_per_class}
    assert mean_per_class == {"fgvc-aircraft", "caltech101", "flowers102", "oxford-pets"}
    assert [row.name for row in TABLE_9_ROWS if row.metric is Metric.average_precision] == ["voc2007"]
