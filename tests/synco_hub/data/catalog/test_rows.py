import re

import pytest

from synco_hub.data.catalog.rows import CATALOG, catalog_row, row_meant
from synco_hub.paper_tables import paper_table


def test_every_set_of_table_9_stands_there_with_its_printed_numbers():
    rows = [row for row in CATALOG.values() if row.in_table_9]
    printed = {
        line["dataset"]: {key: int(line[key]) for key in ("classes", "train", "test")} for line in paper_table(9)
    }
    assert {row.title: row.table_9 for row in rows} == printed


def test_the_sets_beside_table_9():
    others = {row.name for row in CATALOG.values() if not row.in_table_9}
    assert others == {
        *("imagenet-v2-matched-frequency", "imagenet-v2-threshold0.7", "imagenet-v2-top-images"),
        *("imagenet-c", "imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-o", "imagenet-w"),
        *("imagenet-1pct", "imagenet-10pct", "fractals"),
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
    with pytest.raises(ValueError, match=rf"did you mean .*{meant}"):
        catalog_row(slip)


def test_a_folder_hides_a_bare_name_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert row_meant("dtd") is CATALOG["dtd"]
    assert row_meant("./dtd") is row_meant("nothing") is None
    (tmp_path / "dtd").mkdir()
    assert row_meant("dtd") is None
    assert row_meant("dtd", data_dir="dtd") is row_meant("dtd", dataset_id="someone/dtd") is CATALOG["dtd"]
