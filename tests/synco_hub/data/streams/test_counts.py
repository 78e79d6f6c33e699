"""Rows of a shard from its footer or headers, against what the `datasets` library reads."""

import sys
import tarfile
from pathlib import Path

import datasets
import pytest

from synco_hub.data.streams.counts import rows_of_shard

sys.path.insert(0, str(Path(__file__).parent))
from stream_tables import parquet_folder, webdataset_folder


def test_counts_are_those_of_reading(tmp_path):
    for folder, kind in (
        (parquet_folder(tmp_path / "p", [3, 0, 11]), "parquet"),
        (webdataset_folder(tmp_path / "w", [4, 9]), "webdataset"),
    ):
        for file in sorted(folder.iterdir()):
            if file.name.startswith("train-00001-of"):
                assert rows_of_shard(str(file)) == 0
                continue
            read = datasets.load_dataset(kind, data_files=str(file), split="train", streaming=True)
            assert rows_of_shard(str(file)) == sum(1 for _ in read)


def test_tar_members_that_are_no_samples_do_not_count(tmp_path):
    (tmp_path / "b.c").mkdir()
    for name in ("README", "._a.png", "x.png", "x.cls", "b.c/y.png"):
        (tmp_path / name).write_bytes(b"1")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name in ("README", "._a.png", "x.cls", "x.png", "b.c"):
            archive.add(tmp_path / name, name)
    assert rows_of_shard(str(tmp_path / "s.tar")) == 2


def test_what_is_not_here_is_unknown_and_what_is_damaged_is_refused(tmp_path):
    assert rows_of_shard("hf://datasets/a/b@1/train.parquet") is None
    (tmp_path / "rows.arrow").write_bytes(b"x")
    assert rows_of_shard(str(tmp_path / "rows.arrow")) is None
    for name in ("a.parquet", "a.tar"):
        (tmp_path / name).write_bytes(b"no table" * 100)
        with pytest.raises(ValueError, match=rf"{name}: a damaged shard .* take it out"):
            rows_of_shard(str(tmp_path / name))
