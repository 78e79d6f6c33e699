"""The same table by position, as a sample and as a stream: the same images, names and classes, in whatever form."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synco_hub.data import ImageDataset, load_dataset, open_stream
from synco_hub.data.decoding import UnreadableImageError, decode_rgb
from synco_hub.data.image_dataset import fingerprint
from synco_hub.data.loading import load_recorded_images
from synco_hub.data.streams.images import StreamRow
from synco_hub.data.table_cells import find_cell_path
from synco_hub.data.table_source import TableSource
from synco_hub.settings import DatasetChoice

datasets = pytest.importorskip("datasets")

COUNT = 7
CLASSES = datasets.ClassLabel(names=["cat", "dog", "owl"])
STRUCT = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
LABELS = [2, 0, 1, 1, 0, 2, 2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def structs(folder: Path) -> list[Any]:
    return [{"bytes": png(number), "path": f"{number}.png"} for number in range(COUNT)]


def nameless(folder: Path) -> list[Any]:
    return [{"bytes": png(number), "path": None} for number in range(COUNT)]


def alone(folder: Path) -> list[Any]:
    return [png(number) for number in range(COUNT)]


def files(folder: Path) -> list[str]:
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number}.png").write_bytes(png(number))
    return [str(folder / f"{number}.png") for number in range(COUNT)]


def partly_damaged(folder: Path) -> list[Any]:
    return [None, {"bytes": b"", "path": None}, {"bytes": png(2)[:40], "path": "cut.png"}, *structs(folder)[3:]]


def same_in_each(images: list[ImageDataset]) -> None:
    """Images or their errors, names and classes of all."""
    one, *others = images
    for other in others:
        assert len(one) == len(other) == COUNT
        assert (one.class_names, one.labels.tolist()) == (other.class_names, other.labels.tolist())
        assert (one.multi_hot is None) == (other.multi_hot is None)
        assert one.multi_hot is None or np.array_equal(one.multi_hot, other.multi_hot)
        assert one.file_names() == other.file_names()
        assert [one.name(index) for index in range(COUNT)] == [other.name(index) for index in range(COUNT)]
        assert [seen(one, index) for index in range(COUNT)] == [seen(other, index) for index in range(COUNT)]


def seen(images: ImageDataset, index: int) -> bytes | str:
    try:
        return images.load_image(index).tobytes()
    except UnreadableImageError as error:
        return error.reason


def same_as_streamed(images: ImageDataset, choice: DatasetChoice) -> None:
    """Of a stream rows have the file name in their cell, and shard and row as their name."""
    source = open_stream(choice)
    streamed = source.images()
    cells = [cell for shard in range(len(source.counts)) for cell in source.cells(shard)]
    assert len(cells) == len(streamed) == len(images)
    assert [find_cell_path(cell) or f"row {index}" for index, cell in enumerate(cells)] == images.file_names()
    for index, cell in enumerate(cells):
        assert seen(streamed, StreamRow(0, index, cell)) == seen(images, index)


SEVERAL = [[2, 0], [], [1], [0, 1, 2], [1], [0], []]
FORMS: dict[str, tuple[str, Any, Callable[[Path], list[Any]], dict[str, tuple[list[Any], Any]], dict[str, str]]] = {
    "images and classes": ("image", datasets.Image(), structs, {"label": (LABELS, CLASSES)}, {}),
    "without labels": ("picture", datasets.Image(), structs, {}, {}),
    "without names": ("image", datasets.Image(), nameless, {"label": (LABELS, CLASSES)}, {}),
    "numbers as classes": ("img", datasets.Image(), structs, {"cls": (LABELS, datasets.Value("int32"))}, {}),
    "words as classes": (
        *("image", datasets.Image(), structs),
        {"wnid": ([f"n0{label}" for label in LABELS], datasets.Value("string"))},
        {"label_column": "wnid"},
    ),
    "some unlabeled": ("image", datasets.Image(), structs, {"label": ([None, *LABELS[1:]], CLASSES)}, {}),
    "several classes": (
        *("image", datasets.Image(), structs),
        {"labels": (SEVERAL, datasets.Sequence(CLASSES)), "difficult": ([[1]] * COUNT, datasets.Sequence(CLASSES))},
        {},
    ),
    "plain structs": ("image", STRUCT, structs, {"label": (LABELS, CLASSES)}, {"image_column": "image"}),
    "plain bytes": (
        *("jpg", datasets.Value("binary"), alone),
        {"cls": (LABELS, CLASSES)},
        {"image_column": "jpg"},
    ),
    "large bytes": (
        *("jpg", datasets.Value("large_binary"), alone),
        {"cls": (LABELS, CLASSES)},
        {"image_column": "jpg"},
    ),
    "paths": ("file", datasets.Value("string"), files, {"label": (LABELS, CLASSES)}, {"image_column": "file"}),
    "damaged cells": ("image", datasets.Image(), partly_damaged, {"label": (LABELS, CLASSES)}, {}),
    "one of two columns": (
        *("b", datasets.Image(), structs),
        {"a": ([{"bytes": png(90), "path": None}] * COUNT, datasets.Image()), "label": (LABELS, CLASSES)},
        {"image_column": "b"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_says_the_same_however_it_is_read(form: str, tmp_path: Path) -> None:
    column, kind, cells, labels, chosen = FORMS[form]
    values = {column: cells(tmp_path / "files")} | {name: each for name, (each, _) in labels.items()}
    kinds = {column: kind} | {name: each for name, (_, each) in labels.items()}
    (tmp_path / "table").mkdir()
    table = datasets.Dataset.from_dict(values, features=datasets.Features(kinds))
    table.to_parquet(tmp_path / "table" / "train-0.parquet", batch_size=3)
    choice = DatasetChoice(str(tmp_path / "table"), **chosen)
    whole = load_dataset(choice)
    # As many as there are: every row is kept, having been read as a stream.
    same_in_each([whole, load_dataset(choice, max_images=3 * COUNT)])
    same_as_streamed(whole, choice)
    intact = [index for index in range(COUNT) if form != "damaged cells" or index > 2]
    assert all(seen(whole, index) == decode_rgb(png(index)).tobytes() for index in intact)


def test_archives_say_the_same_however_they_are_read(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.mkdir()
    with tarfile.open(table / "train-000.tar", "w") as archive:
        for number, label in enumerate(LABELS):
            for name, data in ((f"{number:03d}.png", png(number)), (f"{number:03d}.cls", str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    whole = load_dataset(table)
    assert whole.labels.tolist() == LABELS
    same_in_each([whole, load_dataset(table, max_images=COUNT)])
    same_as_streamed(whole, DatasetChoice(str(table)))


@pytest.mark.parametrize(
    ("kinds", "chosen", "message"),
    [
        ({"n": datasets.Value("int64")}, {}, "no column of images among n"),
        ({"n": datasets.Value("int64")}, {"image_column": "n"}, "column 'n' holds int64, not images"),
        ({"n": datasets.Value("int64")}, {"image_column": "m"}, "no column 'm'; give --image-column one of n"),
        ({"a": datasets.Image(), "b": datasets.Image()}, {}, "2 columns of images among a, b"),
    ],
)
def test_a_column_is_refused_in_the_same_words(
    kinds: dict[str, Any], chosen: dict[str, str], message: str, tmp_path: Path
) -> None:
    values = {name: [1 if name == "n" else None] for name in kinds}
    datasets.Dataset.from_dict(values, features=datasets.Features(kinds)).to_parquet(
        tmp_path / "table/train-0.parquet"
    )
    choice = DatasetChoice(str(tmp_path / "table"), **chosen)
    for read in (load_dataset, open_stream, lambda choice: load_dataset(choice, max_images=5)):
        with pytest.raises(ValueError, match=message):
            read(choice)


UNMARKED = {
    "bytes": lambda data, path: data,
    "bytes and path": lambda data, path: {"bytes": data, "path": "x.png"},
    "more fields": lambda data, path: {"bytes": data, "path": "x.png", "width": 4},
    "path and size": lambda data, path: {"path": path, "width": 4},
    "path": lambda data, path: path,
}


@pytest.mark.parametrize("form", UNMARKED)
@pytest.mark.parametrize("where", ["absolute", "beside the table", "current folder"])
@pytest.mark.parametrize("large", [False, True])
def test_every_form_of_a_column_shows_the_same_by_position_and_in_a_stream(
    form: str, where: str, large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    place = tmp_path / ("t" if where == "beside the table" else "elsewhere")
    place.mkdir()
    (tmp_path / "t").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path if where == "beside the table" else place)
    cells = []
    for row in range(3):
        buffer = io.BytesIO()
        Image.new("L", (4, 4), 50 * row).save(buffer, "PNG")
        # Without an extension: a folder with image files would be one of image files.
        (place / f"picture{row}").write_bytes(buffer.getvalue())
        path = str(place / f"picture{row}") if where == "absolute" else f"picture{row}"
        cells.append(UNMARKED[form](buffer.getvalue(), path))
    kind = {"bytes": pa.large_binary(), "path": pa.large_string()}.get(form) if large else None
    pq.write_table(pa.table({"image": pa.array(cells, kind), "label": [0, 1, 0]}), tmp_path / "t" / "train.parquet")
    images = load_dataset(str(tmp_path / "t"))
    assert [images.load_image(row).getpixel((0, 0))[0] for row in range(3)] == [0, 50, 100]
    streamed = open_stream(str(tmp_path / "t"))
    rows = streamed.images()
    found = [
        rows.load_image(StreamRow(0, row, cell)).getpixel((0, 0))[0] for row, cell in enumerate(streamed.cells(0))
    ]
    assert found == [0, 50, 100]
    assert len(list(streamed.cells(0, 2))) == 1


@pytest.fixture
def with_unlabeled(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for split, first, count, label in (("train", 0, 4, "cat"), ("test", 10, 2, "cat"), ("unlabeled", 20, 3, None)):
        cells = [{"bytes": png(first + number), "path": None} for number in range(count)]
        pq.write_table(
            pa.table({"image": cells, "label": [label] * count}), folder / f"{split}-00000-of-00001.parquet"
        )
    return folder


def test_pretraining_on_a_table_takes_what_is_there_without_labels(with_unlabeled: Path) -> None:
    images = load_dataset(str(with_unlabeled), "pretraining")
    assert [images.encoded(index) for index in range(len(images))] == [png(n) for n in (0, 1, 2, 3, 20, 21, 22)]
    assert images.labels.tolist() == [0] * 4 + [-1] * 3
    assert images.description.split_rule == "split train + unlabeled as published"
    stream = open_stream(str(with_unlabeled), "pretraining")
    assert (stream.num_rows, stream.split_rule) == (7, images.description.split_rule)
    assert [cell["bytes"] for shard in range(2) for cell in stream.cells(shard)] == [
        png(n) for n in (0, 1, 2, 3, 20, 21, 22)
    ]
    for split, count in (("train", 4), ("test", 2)):
        measured = load_dataset(str(with_unlabeled), split)
        assert (len(measured), measured.is_labeled, measured.description.split) == (count, True, split)


SPLITS_IN_FILES = {
    "cut short": (("trn.parquet",), ("tst.parquet",)),
    "shards": (("tr-00000-of-00002.parquet", "tr-00001-of-00002.parquet"), ("va-00000-of-00001.parquet",)),
    "one of them": (("train.parquet",), ("vld.parquet",)),
    "folders": (("trn/part.parquet", "trn/more.parquet"), ("ts/part.parquet",)),
}


@pytest.mark.parametrize("names", SPLITS_IN_FILES.values(), ids=SPLITS_IN_FILES)
def test_no_test_row_is_trained_on_where_splits_are_cut_short(tmp_path: Path, names: Any) -> None:
    """The library takes such files together for training; those of every split are written here apart."""
    folder, bytes_of = tmp_path / "photographs", {}
    for split, files in zip(("train", "test"), names, strict=True):
        for file in files:
            rows = range(len(bytes_of), len(bytes_of) + 3)
            bytes_of |= {number: (split, png(number)) for number in rows}
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            cells = [{"bytes": png(number), "path": None} for number in rows]
            pq.write_table(pa.table({"image": cells, "label": ["cat", "dog", "cat"]}), folder / file)
    expected = {split: sorted(png for kind, png in bytes_of.values() if kind == split) for split in ("train", "test")}
    for asked, kind in (("train", "train"), ("pretraining", "train"), ("test", "test")):
        images = load_dataset(str(folder), asked)
        assert sorted(images.encoded(index) for index in range(len(images))) == expected[kind]
    stream = open_stream(str(folder), "pretraining")
    shards = range(len(names[0]))
    assert sorted(cell["bytes"] for shard in shards for cell in stream.cells(shard)) == expected["train"]


def test_a_file_that_could_be_a_language_beside_others_is_no_split(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    for number, name in enumerate(("tr", "en", "de")):
        table = pa.table({"image": [{"bytes": png(number), "path": None}], "label": [name]})
        pq.write_table(table, tmp_path / "words" / f"{name}.parquet")
    assert len(load_dataset(str(tmp_path / "words"), "train")) == 3


def test_a_table_without_such_a_split_is_as_it_was(with_unlabeled: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = load_dataset(str(with_unlabeled), "train").description
    (with_unlabeled / "unlabeled-00000-of-00001.parquet").rename(with_unlabeled / "more-0.parquet")
    assert load_dataset(str(with_unlabeled), "pretraining").description == train
    assert open_stream(str(with_unlabeled), "pretraining").num_rows == 4
    assert "1 files are of no split and are not read (more-0.parquet)" in caplog.text


def test_a_run_goes_on_without_the_images_that_it_did_not_have(with_unlabeled: Path) -> None:
    choice = DatasetChoice(str(with_unlabeled))
    begun = load_dataset(choice, "train").description
    assert load_recorded_images(choice, "pretraining", None, lambda images: images).description.num_images == 7
    for known in (begun.fingerprint, begun.earlier_fingerprint):
        recorded = {**begun.to_dict(), "fingerprint": known}
        assert load_recorded_images(choice, "pretraining", recorded, lambda images: images).description == begun


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("Train-0", "Eval-0"), ("trn", "tst"), ("treino-00000-of-00001", "teste-00000-of-00001"), ("训练", "测试")),
        *(("Train/0", "Valid/0"), ("Training_Set", "test"), ("train-0", "prova"), ("TRAIN", "TEST")),
    ],
)
def test_splits_of_tables_are_found_in_the_spellings_of_folders(
    with_unlabeled: Path, train: str, test: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name, wanted in (("train", train), ("test", test)):
        moved = with_unlabeled / f"{wanted}.parquet"
        moved.parent.mkdir(exist_ok=True)
        (with_unlabeled / f"{name}-00000-of-00001.parquet").rename(moved)
    for split, count in (("train", 4), ("test", 2), ("pretraining", 7)):
        images = load_dataset(str(with_unlabeled), split)
        assert len(images) == count
        assert images.class_names == ["cat"]
    assert open_stream(str(with_unlabeled), "pretraining").num_rows == 7
    assert "no split" not in caplog.text


def test_a_run_goes_on_with_the_splits_that_the_library_found(with_unlabeled: Path) -> None:
    for name in ("train", "test", "unlabeled"):
        (with_unlabeled / f"{name}-00000-of-00001.parquet").rename(with_unlabeled / f"{name.upper()}.parquet")
    choice = DatasetChoice(str(with_unlabeled))
    begun = load_dataset(TableSource.of(choice, library_splits=True), "train").description
    assert begun.num_images == 9
    recorded = begun.to_dict()
    assert load_recorded_images(choice, "pretraining", recorded, lambda images: images).description == begun


def test_what_a_local_table_is_has_nothing_to_do_with_its_name(with_unlabeled: Path, tmp_path: Path) -> None:
    here = load_dataset(str(with_unlabeled)).description
    # The words of version 0.1, for whose runs and results the folder has to be called as it was.
    earlier = fingerprint(("photographs", "train", "image", "label"), ["cat"], np.zeros(4, dtype=np.int64))
    assert here.earlier_fingerprint == earlier
    assert here.is_same_data(earlier)
    assert here.is_same_data(here.fingerprint)
    assert not here.is_same_data(None)
    assert "earlier_fingerprint" not in here.to_dict()
    part = load_dataset(str(with_unlabeled), max_images=2).description
    with_unlabeled.rename(tmp_path / "renamed")
    moved = load_dataset(str(tmp_path / "renamed")).description
    assert moved.fingerprint == here.fingerprint
    assert moved.earlier_fingerprint != earlier
    assert load_dataset(str(tmp_path / "renamed"), max_images=2).description.fingerprint == part.fingerprint
    # Other images with the same labels are other data.
    cells = [{"bytes": png(number), "path": None} for number in (0, 1, 2, 30)]
    pq.write_table(
        pa.table({"image": cells, "label": ["cat"] * 4}), tmp_path / "renamed" / "train-00000-of-00001.parquet"
    )
    assert load_dataset(str(tmp_path / "renamed")).description.fingerprint != here.fingerprint
