import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.catalog import loading as catalog_loading
from synco_hub.data.catalog.rows import CATALOG
from synco_hub.data.class_lists import class_list
from synco_hub.data.hub_dataset import HubImageDataset
from synco_hub.data.hub_source import HubSource
from synco_hub.data.loading import load_dataset

datasets = pytest.importorskip("datasets")

TABLES = [name for name, row in CATALOG.items() if row.dataset_id and row.is_table]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def png(value: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("L", (3, 3), value).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{value}.png"}


def write_copy(root: Path, name: str) -> None:
    """Two images in each stored split, in the schema of the row's Hub copy."""
    row = CATALOG[name]
    image_column, label_column = row.image_column or "webp", row.label_column or "label"
    number = 0
    (root / "data").mkdir(parents=True)
    for stored in dict.fromkeys(part for parts in row.splits.values() for part in parts):
        feature: Any = datasets.ClassLabel(num_classes=row.num_classes)
        labels: list[Any] = [row.num_classes - 1, number]
        if label_column == "cls":
            feature = datasets.Value("int64")
        elif label_column == "wnid":
            feature, labels = datasets.Value("string"), [class_list("imagenet_r")[label] for label in labels]
        columns = {image_column: [png(number), png(number + 1)], label_column: labels, "coarse_label": [0, 0]}
        features = {image_column: datasets.Image(), label_column: feature, "coarse_label": datasets.ClassLabel(2)}
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        table.to_parquet(root / "data" / f"{stored}-00000-of-00001.parquet")
        number += 2


@pytest.mark.parametrize("name", TABLES)
def test_each_copys_schema_loads_from_a_folder(name: str, tmp_path: Path):
    write_copy(tmp_path / "copy", name)
    row = CATALOG[name]
    grey = 0
    for split, stored in row.splits.items():
        images = load_dataset(name, split, data_dir=tmp_path / "copy")
        assert len(images) == 2 * len(stored)
        assert images.num_classes == row.num_classes
        assert images.labels.tolist() == [
            label for part in range(len(stored)) for label in (row.num_classes - 1, grey + 2 * part)
        ]
        assert [images[index].image.getpixel((0, 0))[0] for index in range(len(images))] == [
            grey + position for position in range(len(images))
        ]
        assert (images.description.name, images.description.split) == (name, split)
        grey += len(images)


@pytest.mark.parametrize("name", TABLES)
def test_without_a_folder_the_row_says_what_is_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch):
    row, asked = CATALOG[name], []

    def recorded(source: HubSource, split: str) -> HubImageDataset:
        asked.append((source, split))
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog_loading, "load_hub_dataset", recorded)
    for split, stored in row.splits.items():
        with pytest.raises(KeyboardInterrupt):
            load_dataset(name, split)
        source = HubSource(
            *(row.dataset_id or "", row.config, row.revision, None, row.image_column, row.label_column),
            num_classes=row.num_classes,
        )
        assert asked.pop() == (source, "+".join(stored))
    with pytest.raises(KeyboardInterrupt):
        load_dataset(name, split, revision="abc", label_column="other")
    assert (asked[0][0].revision, asked[0][0].label_column) == ("abc", "other")


def test_some_rows_of_a_table_of_bare_numbers_have_the_classes_of_the_set(tmp_path: Path, caplog):
    row, cell = CATALOG["flowers102"], png(3)
    columns = {str(row.image_column): [cell] * 30, str(row.label_column): list(range(30))}
    features = datasets.Features(
        {str(row.image_column): datasets.Image(), str(row.label_column): datasets.Value("int64")}
    )
    table = datasets.Dataset.from_dict(columns, features=features)
    for stored in {stored for parts in row.splits.values() for stored in parts}:
        table.to_parquet(tmp_path / f"{stored}-0.parquet", batch_size=5)
    images = load_dataset("flowers102", "test", data_dir=tmp_path, max_images=6)
    assert (len(images), images.num_classes, images.description.num_classes) == (6, 102, 102)
    assert images.class_names == list(class_list("flowers102"))
    assert "catalog has" not in caplog.text
    with pytest.raises(ValueError, match="30 classes, where flowers102 has 102"):
        load_dataset("flowers102", "test", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("imagenet-a", "train", "imagenet-a has no split 'train'; give one of test"),
        ("imagenet-c", "test", "cannot be read from the Hub; unpack its original files .* --data-dir"),
        ("imagenet-v2-top-images", "test", "cannot be read from the Hub"),
        ("imagenet-w", "train", "no split 'train'; give one of test"),
        ("voc2007", "train", "cannot be read from the Hub; unpack .*VOCdevkit"),
    ],
)
def test_what_has_no_table(name: str, split: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_dataset(name, split)


def test_a_copy_with_other_classes_is_refused(tmp_path: Path):
    write_copy(tmp_path / "copy", "cifar10")
    with pytest.raises(ValueError, match="10 classes, where stanford-cars has 196"):
        load_dataset("stanford-cars", data_dir=tmp_path / "copy", image_column="img")
    with pytest.raises(ValueError, match="no such folder"):
        load_dataset("cifar10", data_dir=tmp_path / "nowhere")


def test_images_of_a_folder(tmp_path: Path):
    for name in ("train/cat/a.png", "test/cat/b.png", "test/cat/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    images = load_dataset("cifar10", "test", data_dir=tmp_path)
    assert (len(images), images.description.name) == (2, "cifar10")


def write_archive(path: Path, samples: list[dict[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, sample in enumerate(samples):
            for extension, content in sample.items():
                member = tarfile.TarInfo(f"sample{number:04d}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_imagenet_as_webdataset(tmp_path: Path):
    for split, labels in (("train", [999, 3]), ("validation", [7])):
        samples = [
            {
                "jpg": png(label % 255)["bytes"],
                "cls": str(label).encode(),
                "json": json.dumps({"label": label}).encode(),
            }
            for label in labels
        ]
        write_archive(tmp_path / f"copy/imagenet1k-{split}-0000.tar", samples)
    train, test = (load_dataset("imagenet-1k", split, data_dir=tmp_path / "copy") for split in ("train", "test"))
    assert (train.labels.tolist(), test.labels.tolist(), train.num_classes) == ([999, 3], [7], 1000)
    assert train.load_image(1).getpixel((0, 0)) == (3, 3, 3)
    assert train.class_names[999] == class_list("imagenet_1k")[999]


@pytest.mark.parametrize("extension", ["webp", "jpg"])
def test_sketches_as_webdataset(extension: str, tmp_path: Path):
    samples = [{extension: png(label)["bytes"], "cls": str(label).encode()} for label in (0, 200)]
    write_archive(tmp_path / "copy/test/0.tar", samples)
    found = load_dataset("imagenet-sketch", "test", data_dir=tmp_path / "copy")
    assert (found.labels.tolist(), found.num_classes) == ([0, 200], 1000)


def test_voc_as_the_copies_have_it(tmp_path: Path):
    """Rows of 0 and 1 as webdataset, lists of classes, lists of names."""
    rows = (np.random.default_rng(2).random((3, 20)) < 0.3).astype(np.int64)
    names = class_list("voc2007")
    samples = []
    for row in rows:
        stream = io.BytesIO()
        np.save(stream, row)
        samples.append({"jpg": png(1)["bytes"], "npy": stream.getvalue()})
    for split in ("train", "test"):
        write_archive(tmp_path / f"wds/{split}/0.tar", samples)
    indices = [np.flatnonzero(row).tolist() for row in rows]
    kinds = {
        "ids": (indices, datasets.Value("int64")),
        "classes": (indices, datasets.ClassLabel(names=list(names))),
        "names": ([[names[index] for index in each] for each in indices], datasets.Value("string")),
    }
    for kind, (values, feature) in kinds.items():
        features = datasets.Features({"image": datasets.Image(), "classes": datasets.Sequence(feature)})
        for split in ("train", "test"):
            (tmp_path / kind / "data").mkdir(parents=True, exist_ok=True)
            table = datasets.Dataset.from_dict({"image": [png(1)] * 3, "classes": values}, features=features)
            table.to_parquet(tmp_path / kind / f"data/{split}-00000-of-00001.parquet")
    for kind in ("wds", "ids", "classes"):
        column = "npy" if kind == "wds" else "classes"
        for split in ("train", "test"):
            found = load_dataset("voc2007", split, data_dir=tmp_path / kind, label_column=column)
            assert found.multi_hot is not None
            assert (found.multi_hot == rows).all(), kind
            assert found.class_names == list(names)
    if len({name for each in kinds["names"][0] for name in each}) < 20:
        with pytest.raises(ValueError, match="where voc2007 has 20"):
            load_dataset("voc2007", "train", data_dir=tmp_path / "names", label_column="classes")


def test_another_copy_takes_the_rows_splits_and_columns_where_it_has_them(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[HubSource, str]] = []

    def recorded(source: HubSource, split: str) -> HubImageDataset:
        asked.append((source, split))
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog_loading, "load_hub_dataset", recorded)
    for names, stored in ((["train", "validation"], "validation"), (["train", "test"], "test")):
        monkeypatch.setattr(catalog_loading, "split_names", lambda source, names=names: names)
        with pytest.raises(KeyboardInterrupt):
            load_dataset("food101", "test", dataset_id="someone/food", revision="abc")
        source, split = asked.pop()
        assert (source.dataset_id, source.config, source.revision, split) == ("someone/food", None, "abc", stored)
        assert source.optional_columns
    for name, arguments in (("someone/else", {}), ("food101", {"data_dir": "/tmp"})):
        with pytest.raises(ValueError, match="another copy of a set of the catalog"):
            load_dataset(name, "test", dataset_id="someone/food", **arguments)


@pytest.mark.network
@pytest.mark.parametrize("name", TABLES)
def test_the_copy_on_the_hub_has_the_splits_and_columns(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    row = CATALOG[name]
    for parts in row.splits.values():
        for stored in parts:
            rows = datasets.load_dataset(
                row.dataset_id, row.config, split=stored, revision=row.revision, streaming=True
            )
            first = next(iter(rows))
            assert row.label_column is None or row.label_column in first
            assert row.image_column is None or row.image_column in first
