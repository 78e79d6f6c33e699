"""Test images among the training images, of every kind of data set and however they are stored."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_trees.original import write_original
from PIL import Image

from synco_hub.data.catalog.rows import CATALOG
from synco_hub.data.hub_dataset import HubImageDataset, load_hub_dataset
from synco_hub.data.hub_source import HubSource
from synco_hub.data.image_folder import load_image_folder
from synco_hub.data.loading import load_dataset
from synco_hub.data.split_overlap import LOOKED_FOR_AT_MOST, overlap_of
from synco_hub.data.verification import verify_dataset


def test_a_test_batch_in_the_place_of_a_training_batch(tmp_path: Path) -> None:
    root = write_original("cifar10", tmp_path).root
    splits = {split: load_dataset("cifar10", split, data_dir=tmp_path) for split in ("train", "test")}
    assert overlap_of(splits["train"], splits["test"]) is None
    folder = root / "cifar-10-batches-py"
    shutil.copy(folder / "test_batch", folder / "data_batch_3")
    splits = {split: load_dataset("cifar10", split, data_dir=tmp_path) for split in ("train", "test")}
    assert overlap_of(splits["train"], splits["test"]) == (
        "5 of 5 test images looked for are in train too (first test_0.png)"
    )
    counts = {split: len(images) for split, images in splits.items()}
    row = replace(CATALOG["cifar10"], counts=counts, per_class={})
    assert not any(verdict.agrees for verdict in verify_dataset(row, splits).values())


def test_a_training_file_that_is_the_test_file(tmp_path: Path) -> None:
    folder = write_original("cifar100", tmp_path).root / "cifar-100-python"
    shutil.copy(folder / "test", folder / "train")
    splits = [load_dataset("cifar100", split, data_dir=tmp_path) for split in ("train", "test")]
    assert str(overlap_of(*splits)).startswith("5 of 5 test images")


def table(root: Path, train: list[int], test: list[int], monkeypatch: pytest.MonkeyPatch) -> list[HubImageDataset]:
    """Parquet files whose images are drawn from seeds."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", root / "hf")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split, seeds in (("train", train), ("test", test)):
        cells = [{"bytes": png(seed), "path": f"{split}{number}.png"} for number, seed in enumerate(seeds)]
        rows = {"image": cells, "label": [number % 2 for number in range(len(cells))]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}.parquet")
    return [load_hub_dataset(HubSource(str(root)), split) for split in ("train", "test")]


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_rows_of_a_parquet_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = table(tmp_path / "clean", [*range(40)], [*range(40, 60)], monkeypatch)
    assert overlap_of(train, test) is None
    sizes = train.encoded_sizes()
    assert sizes is not None
    assert sizes.tolist() == [len(train.encoded(index)) for index in range(40)]
    # Two of twenty are no more than published sets have.
    assert overlap_of(*table(tmp_path / "twice", [*range(40)], [0, 1, *range(40, 58)], monkeypatch)) is None
    train, test = table(tmp_path / "mixed", [*range(40)], [*range(40, 50), *range(7, 17)], monkeypatch)
    assert overlap_of(train, test) == "10 of 20 test images looked for are in train too (first test10.png (row 10))"


def test_only_some_images_of_a_large_split_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synco_hub.data.split_overlap.LOOKED_FOR_AT_MOST", 10)
    train, test = table(tmp_path / "data", [*range(30)], [*range(30)], monkeypatch)
    read: list[int] = []
    stored = test.encoded
    monkeypatch.setattr(test, "encoded", lambda index: read.append(index) or stored(index))
    assert str(overlap_of(train, test)).startswith("10 of 10 test images looked for")
    assert (len(read), read[0], read[-1]) == (10, 0, 29)
    assert LOOKED_FOR_AT_MOST == 1000


def test_files_of_two_folders(tmp_path: Path) -> None:
    for split, offset in (("train", 0), ("val", 50)):
        for number in range(12):
            file = tmp_path / split / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(offset + number))
    # The names agree and the images do not.
    assert overlap_of(*(load_image_folder(tmp_path, split) for split in ("train", "test"))) is None
    shutil.rmtree(tmp_path / "val")
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    found = overlap_of(*(load_image_folder(tmp_path, split) for split in ("train", "test")))
    assert found == "12 of 12 test images looked for are in train too (first a/0.png)"
