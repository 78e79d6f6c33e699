"""Each set of the catalog from a copy, a folder of tables or its original files."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.catalog import loading as catalog_loading
from synco_hub.data.catalog.loading import find_set_folder, load_catalog_folder
from synco_hub.data.catalog.sets import CATALOG, find_catalog_row
from synco_hub.data.class_lists import read_class_list
from synco_hub.data.loading import load_dataset
from synco_hub.data.table_source import TableSource
from synco_hub.data.tables import TableDataset
from synco_hub.settings import DatasetChoice

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
            feature, labels = datasets.Value("string"), [read_class_list("imagenet_r")[label] for label in labels]
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
        images = load_dataset(DatasetChoice(name, data_dir=str(tmp_path / "copy")), split)
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

    def recorded(source: TableSource, split: str) -> TableDataset:
        asked.append((source, split))
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog_loading, "load_table", recorded)
    for split, stored in row.splits.items():
        with pytest.raises(KeyboardInterrupt):
            load_dataset(name, split)
        source = TableSource(
            dataset=row.dataset_id or "",
            config=row.config,
            revision=row.revision,
            usual_image_column=row.image_column,
            usual_label_column=row.label_column,
            num_classes=row.num_classes,
        )
        assert asked.pop() == (source, "+".join(stored))
    with pytest.raises(KeyboardInterrupt):
        load_dataset(DatasetChoice(name, revision="abc", label_column="other"), split)
    assert (asked[0][0].revision, asked[0][0].label_column) == ("abc", "other")
    # By its own name, or named outright, the copy is the catalog's.
    for own in (name, row.dataset_id):
        with pytest.raises(KeyboardInterrupt):
            load_dataset(DatasetChoice(name, dataset_id=own), split)
        assert asked.pop() == (source, "+".join(row.splits[split]))


def test_some_rows_of_a_table_of_bare_numbers_have_the_classes_of_the_set(tmp_path: Path, caplog):
    row, cell = CATALOG["flowers102"], png(3)
    columns = {str(row.image_column): [cell] * 30, str(row.label_column): list(range(30))}
    features = datasets.Features(
        {str(row.image_column): datasets.Image(), str(row.label_column): datasets.Value("int64")}
    )
    table = datasets.Dataset.from_dict(columns, features=features)
    for stored in {stored for parts in row.splits.values() for stored in parts}:
        table.to_parquet(tmp_path / f"{stored}-0.parquet", batch_size=5)
    images = load_dataset(DatasetChoice("flowers102", data_dir=str(tmp_path)), "test", max_images=6)
    assert (len(images), images.num_classes, images.description.num_classes) == (6, 102, 102)
    assert images.class_names == list(read_class_list("flowers102"))
    assert "catalog has" not in caplog.text
    with pytest.raises(ValueError, match="30 classes, where flowers102 has 102"):
        load_dataset(DatasetChoice("flowers102", data_dir=str(tmp_path)), "test")


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
        load_dataset(DatasetChoice("stanford-cars", data_dir=str(tmp_path / "copy"), image_column="img"))
    with pytest.raises(ValueError, match="no such folder"):
        load_dataset(DatasetChoice("cifar10", data_dir=str(tmp_path / "nowhere")))


def test_images_of_a_folder(tmp_path: Path):
    for name in ("train/cat/a.png", "test/cat/b.png", "test/cat/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    images = load_dataset(DatasetChoice("cifar10", data_dir=str(tmp_path)), "test")
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
    train, test = (
        load_dataset(DatasetChoice("imagenet-1k", data_dir=str(tmp_path / "copy")), split)
        for split in ("train", "test")
    )
    assert (train.labels.tolist(), test.labels.tolist(), train.num_classes) == ([999, 3], [7], 1000)
    assert train.load_image(1).getpixel((0, 0)) == (3, 3, 3)
    assert train.class_names[999] == read_class_list("imagenet_1k")[999]


@pytest.mark.parametrize("extension", ["webp", "jpg"])
def test_sketches_as_webdataset(extension: str, tmp_path: Path):
    samples = [{extension: png(label)["bytes"], "cls": str(label).encode()} for label in (0, 200)]
    write_archive(tmp_path / "copy/test/0.tar", samples)
    found = load_dataset(DatasetChoice("imagenet-sketch", data_dir=str(tmp_path / "copy")), "test")
    assert (found.labels.tolist(), found.num_classes) == ([0, 200], 1000)


def test_voc_as_the_copies_have_it(tmp_path: Path):
    """Rows of 0 and 1 as webdataset, lists of classes, lists of names."""
    rows = (np.random.default_rng(2).random((3, 20)) < 0.3).astype(np.int64)
    names = read_class_list("voc2007")
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
            found = load_dataset(DatasetChoice("voc2007", data_dir=str(tmp_path / kind), label_column=column), split)
            assert found.multi_hot is not None
            assert (found.multi_hot == rows).all(), kind
            assert found.class_names == list(names)
    if len({name for each in kinds["names"][0] for name in each}) < 20:
        with pytest.raises(ValueError, match="where voc2007 has 20"):
            load_dataset(DatasetChoice("voc2007", data_dir=str(tmp_path / "names"), label_column="classes"), "train")


def test_another_copy_takes_the_rows_splits_and_columns_where_it_has_them(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[TableSource, str]] = []

    def recorded(source: TableSource, split: str) -> TableDataset:
        asked.append((source, split))
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog_loading, "load_table", recorded)
    for names, stored in ((["train", "validation"], "validation"), (["train", "test"], "test")):
        monkeypatch.setattr(catalog_loading, "split_names", lambda source, names=names: names)
        with pytest.raises(KeyboardInterrupt):
            load_dataset(DatasetChoice("food101", dataset_id="someone/food", revision="abc"), "test")
        source, split = asked.pop()
        assert (source.dataset, source.config, source.revision, split) == ("someone/food", None, "abc", stored)
        row = CATALOG["food101"]
        assert (source.image_column, source.usual_image_column) == (None, row.image_column)
        assert (source.label_column, source.usual_label_column) == (None, row.label_column)
    for name, data_dir in (("someone/else", None), ("food101", "/tmp")):
        with pytest.raises(ValueError, match="another copy of a set of the catalog"):
            load_dataset(DatasetChoice(name, data_dir, dataset_id="someone/food"), "test")


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


def images(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / name)
    return root


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Train", "Validation")])
def test_imagenet_labels_are_those_of_all_thousand_classes(train: str, val: str, tmp_path: Path):
    wnids = read_class_list("imagenet_1k")
    root = images(tmp_path, f"{train}/{wnids[7]}/a.JPEG", f"{train}/{wnids[993]}/b.JPEG", f"{val}/{wnids[993]}/c.JPEG")
    assert find_set_folder("imagenet-1k", root) == root
    trained = load_catalog_folder(find_catalog_row("imagenet-1k"), root, "train")
    assert (trained.labels.tolist(), trained.num_classes) == ([7, 993], 1000)
    assert load_catalog_folder(find_catalog_row("imagenet-1k"), root, "test").labels.tolist() == [993]


def test_imagenet_100_is_taken_out_of_imagenet(tmp_path: Path):
    hundred, thousand = read_class_list("imagenet_100"), read_class_list("imagenet_1k")
    others = [wnid for wnid in thousand if wnid not in hundred][:3]
    folders = [*reversed(hundred), *others]
    root = images(tmp_path, *(f"{split}/{wnid}/{split}.png" for split in ("train", "val") for wnid in folders))
    for split in ("train", "test"):
        found = load_catalog_folder(find_catalog_row("imagenet-100"), root, split)
        assert found.class_names == list(hundred)
        assert sorted(found.labels.tolist()) == list(range(100))
        for index in range(len(found)):
            assert found.name(index).split("/")[0] == hundred[found.labels[index]]
        assert "100 of 103 classes" in found.description.split_rule


def test_version_2_reads_folders_as_numbers(tmp_path: Path):
    inside = "imagenetv2-top-images-format-val"
    root = images(tmp_path, *(f"{inside}/{number}/x.jpeg" for number in range(111)))
    found = load_catalog_folder(find_catalog_row("imagenet-v2-top-images"), root, "test")
    assert found.num_classes == 1000
    assert all(int(found.name(index).split("/")[1]) == found.labels[index] for index in range(111))


def test_corruptions_without_the_hold_outs(tmp_path: Path):
    wnid = read_class_list("imagenet_1k")[4]
    names = [f"{corruption}/{severity}/{wnid}/x.JPEG" for corruption in ("fog", "spatter") for severity in (1, 5)]
    root = images(tmp_path, *names)
    found = load_catalog_folder(find_catalog_row("imagenet-c"), root, "test")
    assert list(found.names) == names[:2]
    assert found.labels.tolist() == [4, 4]
    assert len(load_catalog_folder(find_catalog_row("imagenet-c"), root / "fog/5", "test")) == 1


def test_a_subset_of_200_counts_from_its_own_list(tmp_path: Path):
    wnids = read_class_list("imagenet_r")
    root = images(tmp_path, f"imagenet-r/{wnids[199]}/a.jpg", f"imagenet-r/{wnids[3]}/b.jpg")
    found = load_catalog_folder(find_catalog_row("imagenet-r"), root, "test")
    assert (sorted(found.labels.tolist()), found.num_classes) == ([3, 199], 200)
    stranger = next(wnid for wnid in read_class_list("imagenet_1k") if wnid not in read_class_list("imagenet_a"))
    with pytest.raises(ValueError, match="not among the 200 of this set"):
        load_catalog_folder(find_catalog_row("imagenet-a"), images(tmp_path / "a", f"{stranger}/a.jpg"), "test")


def test_the_draw_takes_thirty_a_class_and_is_the_seeds(tmp_path: Path):
    names = [
        f"{name}/image_{number:04d}.jpg" for name, count in (("ant", 33), ("crab", 41)) for number in range(count)
    ]
    root = images(tmp_path / "101_ObjectCategories", *names)
    row = find_catalog_row("caltech101")
    train, test = (load_catalog_folder(row, root, split, seed=3) for split in ("train", "test"))
    assert train.labels.tolist() == [0] * 30 + [1] * 30
    assert test.labels.tolist() == [0] * 3 + [1] * 11
    assert sorted([*train.names, *test.names]) == names
    assert list(load_catalog_folder(row, root, "train", seed=4).names) != list(train.names)
    above = load_catalog_folder(row, tmp_path, "train", seed=3)
    assert [name.split("/", 1)[1] for name in above.names] == list(train.names)


def test_too_few_images_for_the_draw(tmp_path: Path):
    root = images(tmp_path, *(f"ant/{number}.jpg" for number in range(30)))
    with pytest.raises(ValueError, match="no more than 30 images"):
        load_catalog_folder(find_catalog_row("caltech101"), root, "train")


def test_another_layout_is_not_guessed(tmp_path: Path):
    root = images(tmp_path, "images/banded/a.jpg", "images/braided/b.jpg")
    with pytest.raises(ValueError, match=r"labels/train1.txt.* were not found.*dtd is read as .*train/<class>/"):
        load_catalog_folder(find_catalog_row("dtd"), root, "train")
    sorted_by_hand = images(tmp_path / "sorted", "train/banded/a.jpg", "test/banded/b.jpg")
    assert len(load_catalog_folder(find_catalog_row("dtd"), sorted_by_hand, "test")) == 1
    with pytest.raises(ValueError, match="no image in a class folder"):
        load_catalog_folder(find_catalog_row("imagenet-a"), images(tmp_path / "loose", "a.jpg"), "test")
