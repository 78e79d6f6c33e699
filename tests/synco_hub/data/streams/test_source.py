"""From a name or path to raw rows, and every way in which that cannot be."""

import sys
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synco_hub.data.streams.source import StreamSource, open_stream
from synco_hub.data.table_files import count_samples
from synco_hub.settings import DatasetChoice

sys.path.insert(0, str(Path(__file__).parent))
from stream_tables import parquet_folder, png, webdataset_folder


def test_a_parquet_folder_gives_raw_rows_names_and_counts(tmp_path):
    source = open_stream(parquet_folder(tmp_path, [3, 4]))
    assert source.shard_names == ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet")
    assert source.counts == (3, 4)
    assert source.num_rows == 7
    assert [cell["bytes"] for cell in source.cells(1)] == [png(1, row) for row in range(4)]
    description = source.images().description
    assert (description.num_images, description.num_classes) == (7, 0)
    assert "2 shards streamed" in description.split_rule
    assert source.images(5).description.num_images == 5


def test_a_webdataset_folder_gives_the_same(tmp_path):
    source = open_stream(webdataset_folder(tmp_path, [3, 4]))
    assert source.counts == (3, 4)
    assert source.image_column == "png"
    assert [cell["bytes"] for cell in source.cells(0)] == [png(0, row) for row in range(3)]


def test_pretraining_needs_no_labels(tmp_path):
    source = open_stream(parquet_folder(tmp_path, [3], with_label=False))
    assert len(list(source.cells(0))) == 3


def test_a_name_of_the_catalog_takes_its_own_splits_and_the_given_folder(tmp_path):
    parquet_folder(tmp_path, [3, 2])
    source = open_stream(DatasetChoice("imagenet-1k", data_dir=str(tmp_path)))
    assert source.name == "imagenet-1k"
    assert source.num_rows == 5
    for row in range(2):
        (tmp_path / f"validation-{row}-of-2.parquet").write_bytes(
            (tmp_path / "train-00000-of-00002.parquet").read_bytes()
        )
    # Some train on two stored splits; a folder of parquet files has them by their names.
    source = open_stream(DatasetChoice("flowers102", data_dir=str(tmp_path)))
    assert len(source.counts) == 4
    assert source.num_rows == 11
    assert [cell["bytes"] for cell in source.cells(3)] == [png(0, row) for row in range(3)]


def test_a_folder_of_the_sets_own_name_hides_neither_its_splits_nor_another_copy(tmp_path, monkeypatch):
    folder = parquet_folder(tmp_path / "flowers102", [3, 2])
    (folder / "validation-0-of-1.parquet").write_bytes((folder / "train-00000-of-00002.parquet").read_bytes())
    monkeypatch.chdir(tmp_path)
    source = open_stream(DatasetChoice("flowers102", data_dir="flowers102"))
    assert (source.num_rows, source.split_rule) == (8, "split train + validation as published")
    assert open_stream(DatasetChoice("./flowers102")).num_rows == 5
    parquet_folder(tmp_path / "copy", [4])
    assert open_stream(DatasetChoice("imagenet-1k", dataset_id="copy")).num_rows == 4
    (tmp_path / "imagenet-1k").mkdir()
    assert open_stream(DatasetChoice("imagenet-1k", dataset_id="copy")).num_rows == 4


def test_a_description_tells_data_sets_apart_and_not_places(tmp_path):
    one, moved, other = (
        open_stream(parquet_folder(tmp_path / name, counts)).images().description.fingerprint
        for name, counts in (("a", [3, 4]), ("b", [3, 4]), ("c", [4, 3]))
    )
    assert one == moved != other


def test_what_cannot_be_streamed_is_refused_in_one_line(tmp_path):
    pictures = tmp_path / "pictures" / "cat"
    pictures.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(pictures / "1.png")
    (tmp_path / "empty").mkdir()
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    pq.write_table(pa.table({"label": [1, 2], "words": ["a", "b"]}), numbers / "train.parquet")
    damaged = parquet_folder(tmp_path / "damaged", [3, 3])
    file = damaged / "train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    for given, text in (
        (DatasetChoice(str(tmp_path / "pictures")), "holds image files, which need no streaming"),
        (DatasetChoice(str(tmp_path / "empty")), r"no parquet, arrow or webdataset \(.tar\) files"),
        (DatasetChoice(str(numbers)), "no column of images among label, words"),
        (DatasetChoice(str(numbers), image_column="label"), "'label' holds int64, not images"),
        (DatasetChoice(str(numbers), image_column="picture"), "no column 'picture'; give --image-column one of label"),
        (DatasetChoice(str(damaged)), "train-00001-of-00002.parquet"),
        (DatasetChoice("no-such-thing"), "neither a folder, nor a name of"),
        (DatasetChoice("fractals"), "no table on the Hub|neither a folder"),
        (DatasetChoice("./missing/folder"), "neither a folder, nor a name of"),
        (DatasetChoice("imagenet-c"), "no table on the Hub|no split 'train'"),
        (DatasetChoice("imagenet-a"), "no split 'train'"),
    ):
        with pytest.raises(ValueError, match=text) as caught:
            open_stream(given)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="--dataset-id a/b replaces the copy of a name of the catalog"):
        open_stream(DatasetChoice(str(numbers), dataset_id="a/b"))


def test_an_epoch_needs_a_length(tmp_path):
    unknown = StreamSource((), "image", ("s0",), (None,), "someone/photos", None, "split train")
    with pytest.raises(ValueError, match=r"someone/photos does not say how many rows it has.*--images-per-epoch"):
        unknown.images()
    assert len(unknown.images(12)) == 12
    with pytest.raises(ValueError, match="--images-per-epoch -3"):
        unknown.images(-3)
    empty = open_stream(parquet_folder(tmp_path, [0, 0]))
    with pytest.raises(ValueError, match="hold no rows"):
        empty.images()


def test_counts_are_those_of_reading(tmp_path):
    for folder, kind in (
        (parquet_folder(tmp_path / "p", [3, 0, 11]), "parquet"),
        (webdataset_folder(tmp_path / "w", [4, 9]), "webdataset"),
    ):
        for file in sorted(folder.iterdir()):
            if file.name.startswith("train-00001-of"):
                assert count_samples(str(file)) == 0
                continue
            read = datasets.load_dataset(kind, data_files=str(file), split="train", streaming=True)
            assert count_samples(str(file)) == sum(1 for _ in read)


def test_tar_members_that_are_no_samples_do_not_count(tmp_path):
    (tmp_path / "b.c").mkdir()
    for name in ("README", "._a.png", "x.png", "x.cls", "b.c/y.png"):
        (tmp_path / name).write_bytes(b"1")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name in ("README", "._a.png", "x.cls", "x.png", "b.c"):
            archive.add(tmp_path / name, name)
    assert count_samples(str(tmp_path / "s.tar")) == 2


def test_what_is_not_here_is_unknown_and_what_is_damaged_is_refused(tmp_path):
    assert count_samples("hf://datasets/a/b@1/train.parquet") is None
    (tmp_path / "rows.arrow").write_bytes(b"x")
    assert count_samples(str(tmp_path / "rows.arrow")) is None
    for name in ("a.parquet", "a.tar"):
        (tmp_path / name).write_bytes(b"no table" * 100)
        with pytest.raises(ValueError, match=rf"{name}: a damaged shard .* take it out"):
            count_samples(str(tmp_path / name))
