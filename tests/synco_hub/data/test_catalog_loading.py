import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from synco_hub.data import catalog_loading
from synco_hub.data.catalog import CATALOG
from synco_hub.data.class_lists import class_list
from synco_hub.data.hub_dataset import HubImageDataset, HubSource
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
