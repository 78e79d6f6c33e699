"""The catalog: names, counts and its table."""

import re

import pytest
from command_line import invoke

from synco_hub.data.catalog.sets import (
    BENCHMARK_CORRUPTIONS,
    CATALOG,
    ROBUSTNESS_ROWS,
    find_catalog_row,
    find_row_meant,
    format_catalog,
)
from synco_hub.metrics.corruption_error import ALEXNET_ERRORS
from synco_hub.paper_tables import read_paper_table


def test_every_set_of_table_9_stands_there_with_its_printed_numbers():
    rows = [row for row in CATALOG.values() if row.in_table_9]
    printed = {
        line["dataset"]: {key: int(line[key]) for key in ("classes", "train", "test")} for line in read_paper_table(9)
    }
    assert {row.title: row.table_9 for row in rows} == printed


def test_the_sets_beside_table_9():
    others = {row.name for row in CATALOG.values() if not row.in_table_9}
    assert others == {
        *("imagenet-v2-matched-frequency", "imagenet-v2-threshold0.7", "imagenet-v2-top-images"),
        *("imagenet-c", "imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-o", "imagenet-w"),
        *("imagenet-1pct", "imagenet-10pct", "fashion-mnist", "fractals"),
    }


def test_rows_are_complete_and_names_unique():
    for name, row in CATALOG.items():
        assert name == row.name
        assert re.fullmatch(r"[a-z0-9.-]+", name)
        assert row.dataset_id is None or re.fullmatch(r"[\w-]+/[\w-]+", row.dataset_id), name
        assert set(row.splits) == set(row.counts) <= {"train", "test"}, name
        assert all(isinstance(stored, tuple) and stored and all(stored) for stored in row.splits.values()), name
        assert row.original_files, name
        assert bool(row.printed) <= bool(row.difference), f"{name}: differs from Table 9 without a reason"
        assert row.revision is None or re.fullmatch("[0-9a-f]{40}", row.revision), name
    assert len({row.title for row in CATALOG.values()}) == len(CATALOG)
    # A copy is named twice only where one repository holds several archives.
    tables = [row.dataset_id for row in CATALOG.values() if row.dataset_id and row.is_table]
    assert len(tables) == len(set(tables))


@pytest.mark.parametrize(("slip", "meant"), [("imagnet-100", "imagenet-100"), ("cifar-10", "cifar10")])
def test_a_slip_names_the_nearest(slip: str, meant: str):
    with pytest.raises(ValueError, match=rf"Did you mean .*{meant}"):
        find_catalog_row(slip)


def test_a_folder_hides_a_bare_name_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_row_meant("dtd") is CATALOG["dtd"]
    assert find_row_meant("./dtd") is find_row_meant("nothing") is None
    (tmp_path / "dtd").mkdir()
    assert find_row_meant("dtd") is None
    assert find_row_meant("dtd", data_dir="dtd") is find_row_meant("dtd", dataset_id="someone/dtd") is CATALOG["dtd"]


ROWS = {row.name: row for row in ROBUSTNESS_ROWS}


def test_corruptions_are_those_of_the_corruption_error():
    assert sorted(BENCHMARK_CORRUPTIONS) == sorted(ALEXNET_ERRORS)
    assert ROWS["imagenet-c"].counts == {"test": 3_750_000}


def test_label_subsets_have_as_many_images_as_their_lists_have_lines():
    assert ROWS["imagenet-1pct"].counts == {"train": 12811, "test": 50000}
    assert ROWS["imagenet-10pct"].counts == {"train": 128116, "test": 50000}
    # 189 classes have 12 images and 811 have 13.
    assert 189 * 12 + 811 * 13 == 12811


def test_sets_of_200_classes():
    assert {row.name for row in ROBUSTNESS_ROWS if row.num_classes == 200} == {
        "imagenet-a",
        "imagenet-r",
        "imagenet-o",
    }


def test_version_2_has_its_three_archives():
    archives = [row.original_files.split()[0] for row in ROBUSTNESS_ROWS if row.name.startswith("imagenet-v2")]
    assert archives == [f"imagenetv2-{name}.tar.gz" for name in ("matched-frequency", "threshold0.7", "top-images")]


def test_fractals_count_the_defaults():
    assert (ROWS["fractals"].counts, ROWS["fractals"].num_classes) == ({"train": 1000, "test": 1000}, 10)


def test_the_command_prints_it():
    printed = invoke(["data", "list", "--markdown"]).output
    assert printed == format_catalog(CATALOG.values())


def test_every_row_has_its_numbers():
    lines = format_catalog(CATALOG.values()).splitlines()
    assert len(lines) == len(CATALOG) + 2
    assert {line.count("|") for line in lines} == {8}
    flowers = next(line for line in lines if line.startswith("| `flowers102`"))
    assert "`dpdl-benchmark/oxford_flowers102` | 102 | 2,040 | 6,149 | mean per-class accuracy | no" in flowers
    assert next(line for line in lines if line.startswith("| `imagenet-a`")).split(" | ")[3] == "–"
