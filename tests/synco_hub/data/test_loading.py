import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from synco_hub.data.fractals.dataset import FractalDataset
from synco_hub.data.image_folder import ImageFolderDataset
from synco_hub.data.loading import load_dataset
from synco_hub.data.tables import TableDataset
from synco_hub.settings import DatasetChoice


def folder(root: Path) -> Path:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / name)
    return root


def test_fractals_with_settings(tmp_path: Path) -> None:
    dataset = load_dataset("fractals", "test", image_size=16, cache_dir=tmp_path)
    assert isinstance(dataset, FractalDataset)
    assert dataset[0].image.size == (16, 16)
    assert (dataset.num_classes, dataset.description.split) == (10, "test")
    more = load_dataset("fractals:num_classes=12,train_images_per_class=3,image_size=24", image_size=16)
    assert len(more) == 36
    assert "24 pixels" in more.description.source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fractals:classes=3", "no setting 'classes'; .*Did you mean 'num_classes'"),
        ("fractals:num_classes=many", "num_classes=many is no whole number"),
        ("fractals:num_classes", "is no whole number"),
        ("fractals:num_classes=0", "num_classes 0 is too small"),
        ("fractal", "data set 'fractal': .*Did you mean 'fractals'"),
        ("imagenet", "neither a known name nor a folder"),
        ("/nowhere/at/all", "neither a known name nor a folder"),
        ("./some/folder/", "neither a known name nor a folder"),
        ("a/b/c", "neither a known name nor a folder"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_dataset(name)


def test_a_slip_in_a_path_names_its_neighbour(tmp_path: Path) -> None:
    folder(tmp_path / "photographs")
    with pytest.raises(ValueError, match=r"Did you mean .*photographs"):
        load_dataset(tmp_path / "photograph")


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "images")
    assert isinstance(load_dataset(root), ImageFolderDataset)
    assert len(load_dataset(DatasetChoice(str(root), split_seed=5), "test")) == 2
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("images")) == 2
    # A folder of that name comes before the embedded data set.
    root.rename(tmp_path / "fractals")
    assert isinstance(load_dataset("fractals"), ImageFolderDataset)


def test_a_folder_of_the_sets_own_name_does_not_hide_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, kind in enumerate(("banded", "dotted") * 3):
        file = tmp_path / "dtd" / "images" / kind / f"{kind}_{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(file)
    for number, split in enumerate(("train", "val", "test")):
        names = [f"banded/banded_{2 * number}.jpg", f"dotted/dotted_{2 * number + 1}.jpg"]
        file = tmp_path / "dtd" / "labels" / f"{split}1.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in names))
    monkeypatch.chdir(tmp_path)
    images = load_dataset(DatasetChoice("dtd", data_dir="dtd"), "test")
    assert [images.name(k) for k in range(len(images))] == ["banded/banded_4.jpg", "dotted/dotted_5.jpg"]


def test_a_folder_that_hides_a_bare_name_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder(tmp_path / "dtd")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_dataset("./dtd"), ImageFolderDataset)
    assert not caplog.messages
    assert isinstance(load_dataset("dtd"), ImageFolderDataset)
    assert "--data-dir ./dtd reads it as the set" in caplog.text


def test_a_folder_of_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "tables").mkdir()
    table = datasets.Dataset.from_dict({"image": [Image.new("RGB", (2, 2))] * 3, "label": [0, 1, 0]})
    table.to_parquet(tmp_path / "tables" / "train.parquet")
    dataset = load_dataset(tmp_path / "tables")
    assert isinstance(dataset, TableDataset)
    assert dataset.labels.tolist() == [0, 1, 0]


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image was found"):
        load_dataset(tmp_path)


def test_folders_and_fractals_work_without_the_datasets_library(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    code = f"""
import sys
sys.modules["datasets"] = None
from synco_hub.data import load_dataset
assert load_dataset({str(root)!r})[0].image.size == (2, 2)
assert load_dataset("fractals:num_classes=2,train_images_per_class=2", cache_dir={str(tmp_path)!r})[3].label == 1
try:
    load_dataset("someone/something")
except ImportError as error:
    assert "pip install datasets" in str(error)
else:
    raise SystemExit("loaded without the library")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


def test_a_bounded_number_of_images_of_whatever_it_is(tmp_path: Path) -> None:
    few = load_dataset("fractals:num_classes=4,train_images_per_class=5", cache_dir=tmp_path, max_images=6)
    assert (len(few), few.num_classes) == (6, 4)
    assert len(set(few.labels.tolist())) > 2
    assert "6 of 20 images" in few.description.split_rule
    root = folder(tmp_path / "images")
    assert len(load_dataset(root, "train", max_images=1)) == 1
    assert len(load_dataset(root, "train", max_images=50)) == len(load_dataset(root, "train"))
    with pytest.raises(ValueError, match="max_images=0"):
        load_dataset(root, max_images=0)


def test_a_bounded_number_of_rows_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    image = (folder(tmp_path / "images") / "a" / "1.png").read_bytes()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    cells = [{"bytes": image, "path": None}] * 40
    rows = datasets.Dataset.from_dict({"image": cells, "label": [0] * 20 + [1] * 20}, features=features)
    rows.to_parquet(tmp_path / "table" / "train-0.parquet", batch_size=10)
    images = load_dataset(tmp_path / "table", max_images=8)
    assert isinstance(images, TableDataset)
    assert images.labels.tolist() == [0] * 4 + [1] * 4
    # Nothing was written as a copy of the table.
    assert not list((tmp_path / "hf").rglob("*.arrow"))


@pytest.mark.parametrize("flag", ["data_dir", "config", "revision", "image_column", "label_column"])
def test_what_is_said_of_tables_is_refused_where_there_is_none(flag: str, tmp_path: Path) -> None:
    text = f"--{flag.replace('_', '-')} abc says nothing of data set"
    with pytest.raises(ValueError, match=f"{text} 'fractals', since fractals are drawn here"):
        load_dataset(DatasetChoice("fractals", **{flag: "abc"}))
    with pytest.raises(ValueError, match=f"{text} .*, since it is a folder of image files"):
        load_dataset(DatasetChoice(str(folder(tmp_path / "images")), **{flag: "abc"}))


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(ValueError, match="dataset='' names no images"):
        load_dataset("")
