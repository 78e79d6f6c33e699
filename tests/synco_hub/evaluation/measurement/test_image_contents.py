import os
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from synco_hub.data import load_dataset
from synco_hub.data.corruptions import WatermarkedImages
from synco_hub.data.fractals.dataset import FractalDataset
from synco_hub.data.image_subset import ImageSubset
from synco_hub.evaluation.measurement import image_contents
from synco_hub.evaluation.measurement.image_contents import contents_of_files, contents_of_images


@pytest.fixture
def folder(tmp_path):
    """Ten files of one size: nothing but their bytes tells them apart."""
    generator = np.random.default_rng(0)
    for index in range(10):
        path = tmp_path / "data" / "test" / f"c{index % 2}" / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


def test_bytes_count_and_names_places_and_times_do_not(folder, tmp_path, monkeypatch):
    before = contents_of_images(load_dataset(folder, "test"))
    shutil.copytree(folder, tmp_path / "moved")
    changed = tmp_path / "moved" / "test" / "c1" / "3.bmp"
    os.utime(changed, (1, 1))
    assert contents_of_images(load_dataset(tmp_path / "moved", "test")) == before
    monkeypatch.setattr(image_contents, "_RUN", 3)  # however the work is divided
    assert contents_of_images(load_dataset(folder, "test")) == before
    status = changed.stat()
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x07")
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed.stat().st_size == status.st_size
    images = load_dataset(tmp_path / "moved", "test")
    assert images.description.fingerprint == load_dataset(folder, "test").description.fingerprint
    assert contents_of_images(images) != before
    # Five files of c0 come first, so that the changed one is the seventh.
    unchanged = [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert contents_of_images(images, unchanged) == contents_of_images(load_dataset(folder, "test"), unchanged)


def test_the_order_and_the_missing_file_count(folder):
    files = sorted(folder.rglob("*.bmp"))
    whole = contents_of_files(files)
    assert contents_of_files(files[::-1]) != whole
    content = files[2].read_bytes()
    files[2].unlink()
    without = contents_of_files(files)
    assert without not in (whole, contents_of_files([*files[:2], *files[3:]]))
    files[2].write_bytes(content)
    assert contents_of_files(files) == whole


def test_a_part_of_a_data_set_is_its_own_images(folder, tmp_path):
    images = load_dataset(folder, "test")
    part = ImageSubset(images, np.array([1, 4, 6]), "three")
    assert contents_of_images(part) == contents_of_images(images, [1, 4, 6])
    drawn = [load_dataset("fractals:test_images_per_class=1", "test", cache_dir=tmp_path / str(i)) for i in range(2)]
    assert contents_of_images(drawn[0]) == contents_of_images(drawn[1])
    assert contents_of_images(drawn[0], [0]) != contents_of_images(drawn[0], [1])


def test_a_data_set_that_is_drawn_by_its_first_image_is_drawn_once(tmp_path, monkeypatch):
    drawn = []
    original = FractalDataset._drawn
    monkeypatch.setattr(FractalDataset, "_drawn", lambda self: drawn.append(1) or original(self))
    monkeypatch.setattr(image_contents, "_RUN", 1)
    contents_of_images(load_dataset("fractals:test_images_per_class=2", "test", cache_dir=tmp_path))
    assert drawn == [1]


def test_rows_of_a_table_and_watermarked_images_are_known_by_their_stored_bytes(folder, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    images = load_dataset(folder, "test")
    rows = {"image": [{"bytes": images.encoded(i), "path": None} for i in range(10)], "label": images.labels.tolist()}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["c0", "c1"])})
    (tmp_path / "table").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "table" / "test.parquet")
    monkeypatch.setattr(image_contents, "_RUN", 1)
    table = load_dataset(tmp_path / "table", "test")
    assert contents_of_images(table) == contents_of_images(images)
    monkeypatch.setitem(sys.modules, "imagenet_w", SimpleNamespace())
    assert contents_of_images(WatermarkedImages(images)) == contents_of_images(images)
