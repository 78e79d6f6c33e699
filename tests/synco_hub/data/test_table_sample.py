"""Samples of tables: spread over parts and classes, the same at every call, with little read."""

import io
import itertools
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from synco_hub.data import table_sample
from synco_hub.data.hub_dataset import load_hub_dataset
from synco_hub.data.hub_source import HubSource
from synco_hub.data.table_sample import READ_PER_KEPT, sampled_rows

datasets = pytest.importorskip("datasets")

CLASSES = datasets.ClassLabel(names=[f"class{number}" for number in range(8)])
FEATURES = datasets.Features({"id": datasets.Value("int64"), "image": datasets.Image(), "label": CLASSES})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (value % 256, value // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, split: str, files: list[int], group: int, classes: int = 8) -> None:
    """Rows sorted by class over files of the given lengths, in row groups."""
    root.mkdir(exist_ok=True)
    total, start = sum(files), 0
    for number, length in enumerate(files):
        ids = range(start, start + length)
        cells = [{"bytes": png(index), "path": None} for index in ids]
        columns = {"id": list(ids), "image": cells, "label": [index * classes // total for index in ids]}
        table = datasets.Dataset.from_dict(columns, features=FEATURES).data.table
        pq.write_table(table, root / f"{split}-{number:05d}.parquet", row_group_size=group)
        start += length


def identities(table: Any, column: str = "image") -> list[int]:
    """Which rows they are, by their pixels."""
    images = [Image.open(io.BytesIO(row[column]["bytes"])).getpixel((0, 0)) for row in table]
    return [red + 256 * green for red, green, _ in images]


def test_rows_of_a_sorted_table_are_of_all_classes_in_stored_order_and_always_the_same(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", [150, 250], group=10)
    source = HubSource(str(tmp_path / "t"))
    sample = sampled_rows(source, "train", 40)
    ids = identities(sample)
    assert len(ids) == len(set(ids)) == 40
    assert ids == sorted(ids)
    assert [row["label"] for row in sample] == [index * 8 // 400 for index in ids]
    # One row of each of 40 groups.
    assert {index // 10 for index in ids} == set(range(40))
    assert identities(sampled_rows(source, "train", 40)) == ids
    assert set(sample.features) == {"image", "label"}


def test_one_large_group_is_drawn_from_and_not_cut_off_at_its_beginning(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", [200], group=1000)
    labels = [row["label"] for row in sampled_rows(HubSource(str(tmp_path / "t")), "train", 60)]
    counts = [labels.count(number) for number in range(8)]
    assert sum(counts) == 60
    assert min(counts) >= 2


def test_all_rows_where_there_are_no_more(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", [7, 1, 4], group=3)
    source = HubSource(str(tmp_path / "t"))
    # Groups of 3, 3, 1, 1, 3 and 1 rows.
    assert identities(sampled_rows(source, "train", 18)) == list(range(12))
    # What short groups lack, later ones make up for: 2, 2, 1, 1 and then 2 of two groups, where one has but 1.
    assert len(sampled_rows(source, "train", 10)) == 9


def test_several_stored_splits_and_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "t", "train", [20] * 6, group=4)
    write(tmp_path / "t", "validation", [20] * 6, group=4)
    monkeypatch.setattr(table_sample, "PARTS_AT_MOST", 4)
    monkeypatch.setattr(table_sample, "_ROWS_A_BLOCK", 5)
    ids = identities(sampled_rows(HubSource(str(tmp_path / "t")), "train+validation", 16))
    # Files 0 and 3 of both splits, four rows each of the first twenty.
    assert [len(list(rows)) for _, rows in itertools.groupby(ids, key=lambda index: index // 20)] == [4] * 4
    assert {index // 20 for index in ids} == {0, 3}


def test_little_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for number in range(300):
            for name, data in ((f"{number:03d}.png", png(number)), (f"{number:03d}.cls", str(number % 3).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    read = []
    islice = itertools.islice
    monkeypatch.setattr(
        table_sample, "islice", lambda rows, stop: (read.append(1) or row for row in islice(rows, stop))
    )
    sample = sampled_rows(HubSource(str(tmp_path)), "train", 20)
    assert len(read) == 20 * READ_PER_KEPT
    assert [row["cls"] for row in sample] == [index % 3 for index in identities(sample, "png")]


def test_as_a_data_set_it_says_what_it_is(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", [60], group=5)
    write(tmp_path / "t", "validation", [30], group=5)
    images = load_hub_dataset(HubSource(str(tmp_path / "t"), max_images=10), "test")
    assert (len(images), images.num_classes, images.names_from_rows) == (10, 8, False)
    assert images.description.split_rule == "split validation as published; 10 rows spread over it"
    assert images.description.num_images == 10
    whole = load_hub_dataset(HubSource(str(tmp_path / "t")), "test")
    assert images.description.fingerprint != whole.description.fingerprint
    assert images.load_image(0).size == (3, 2)


def test_what_cannot_be_sampled_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", [4], group=2)
    with pytest.raises(ValueError, match="max_images=0"):
        sampled_rows(HubSource(str(tmp_path / "t")), "train", 0)
    with pytest.raises(ValueError, match=r"cannot load it .*dev"):
        sampled_rows(HubSource(str(tmp_path / "t")), "dev", 3)
    with pytest.raises(ValueError, match="no column 'x'"):
        sampled_rows(HubSource(str(tmp_path / "t"), label_column="x"), "train", 3)
    (tmp_path / "t" / "train-00000.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match="cannot load it"):
        sampled_rows(HubSource(str(tmp_path / "t")), "train", 3)
