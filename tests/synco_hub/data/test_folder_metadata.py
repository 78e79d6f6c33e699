"""Classes from metadata files, held against the reader of the `datasets` library on the same trees."""

import csv
import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from synco_hub.data.folder_metadata import read_metadata
from synco_hub.data.image_folder import load_image_folder
from synco_hub.data.loading import load_dataset
from synco_hub.settings import DatasetChoice

NAMES = ("a.png", "b.png", "deep/c.png", "d.png", "e.png", "f.png")
LABELS = ("cat", "dog", "cat", "10", "dog", "cat")


def write_images(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (number, len(folder.name), 0)).save(folder / name)


def write_csv(folder: Path, **columns: tuple[object, ...]) -> None:
    with (folder / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def write_jsonl(folder: Path, **columns: tuple[object, ...]) -> None:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(folder: Path, **columns: tuple[object, ...]) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        arrow.table({name: list(values) for name, values in columns.items()}), folder / "metadata.parquet"
    )


def pairs(root: Path, split: str) -> list[tuple[object, str]]:
    images = load_image_folder(root, split)
    return sorted((image.getpixel((0, 0)), images.class_names[label]) for image, label in images)


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
@pytest.mark.parametrize("labels", [LABELS, (3, 1, 20, 1, 3, 20)])
def test_split_folders_as_the_datasets_library_reads_them(tmp_path, monkeypatch, write, labels):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    for split in ("train", "validation"):
        write_images(tmp_path / "set" / split)
        write(tmp_path / "set" / split, file_name=NAMES, text=("x",) * 6, label=labels)
    for stored, ours in (("train", "train"), ("validation", "test")):
        table = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), split=stored)
        expected = sorted((row["image"].getpixel((0, 0)), str(row["label"])) for row in table)
        assert pairs(tmp_path / "set", ours) == expected


def test_one_folder_is_divided_by_the_classes_of_the_metadata(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    write_images(tmp_path / "set")
    write_csv(tmp_path / "set", file_name=NAMES, label=LABELS)
    table = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), split="train")
    expected = sorted((row["image"].getpixel((0, 0)), row["label"]) for row in table)
    assert sorted(pairs(tmp_path / "set", "train") + pairs(tmp_path / "set", "test")) == expected
    assert load_image_folder(tmp_path / "set").class_names == ["10", "cat", "dog"]


def test_whole_numbers_are_sorted_by_their_value(tmp_path):
    write_images(tmp_path)
    write_jsonl(tmp_path, file_name=NAMES, label=(10, 2, 10, 2, 9, 9))
    assert load_image_folder(tmp_path).class_names == ["2", "9", "10"]


def test_labels_of_the_metadata_come_before_the_folders(tmp_path):
    write_images(tmp_path / "images", ("x/1.png", "x/2.png", "y/1.png", "y/2.png"))
    write_csv(tmp_path, file_name=("images/x/1.png", "images/x/2.png", "images/y/1.png"), kind=("p", "q", "p"))
    assert load_image_folder(tmp_path).class_names == ["x", "y"]
    named = load_dataset(DatasetChoice(str(tmp_path), label_column="kind"))
    assert named.class_names == ["p", "q"]
    with pytest.raises(ValueError, match="no column 'sort'; give --label-column one of file_name, kind"):
        load_dataset(DatasetChoice(str(tmp_path), label_column="sort"))


def test_the_nearer_file_counts(tmp_path):
    write_images(tmp_path / "train", ("1.png", "2.png"))
    write_csv(tmp_path, file_name=("train/1.png", "train/2.png"), label=("far", "far"))
    write_jsonl(tmp_path / "train", file_name=("1.png",), label=("near",))
    metadata = read_metadata(tmp_path, ["metadata.csv", "train/metadata.jsonl"])
    assert metadata.classes == {"train/1.png": "near", "train/2.png": "far"}


def test_what_is_wrong_is_said_and_folders_count(tmp_path, caplog):
    write_images(tmp_path, ("x/1.png", "x/2.png", "y/1.png", "y/2.png"))
    (tmp_path / "metadata.csv").write_text("colour,size\nred,3\n")
    (tmp_path / "x" / "metadata.jsonl").write_text("{broken\n")
    write_csv(tmp_path / "y", file_name=("1.png", "2.png"), text=("p", "q"))
    with caplog.at_level(logging.WARNING):
        assert load_image_folder(tmp_path).class_names == ["x", "y"]
    for text in (
        "no column file_name among colour, size",
        "cannot be read as metadata",
        "none of its columns file_name, text",
    ):
        assert text in caplog.text
    with pytest.raises(ValueError, match="no column file_name"):
        load_image_folder(tmp_path, label_column="size")


def test_images_and_rows_without_each_other_are_counted(tmp_path, caplog):
    write_images(tmp_path)
    write_csv(tmp_path, file_name=(*NAMES[:5], "gone.png"), label=("a", "b", "a", "", "b", "a"))
    with caplog.at_level(logging.WARNING):
        images = load_image_folder(tmp_path)
    assert len(images) + len(load_image_folder(tmp_path, "test")) == 4
    assert "1 images of the metadata are not there" in caplog.text
    assert "2 images have no class in the metadata and are left out" in caplog.text
    assert len(load_image_folder(tmp_path, "pretraining")) == 6
