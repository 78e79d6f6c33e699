import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from synco_hub.data.fractals.dataset import FractalDataset, FractalParameters
from synco_hub.data.fractals.drawing import Nuisance, render_fractals

SMALL = FractalParameters(num_classes=3, train_images_per_class=4, test_images_per_class=5, image_size=16)


def first(batch: list[object]) -> object:
    return batch[0]


def test_images_labels_and_names(tmp_path: Path) -> None:
    dataset = FractalDataset("train", SMALL, tmp_path)
    assert len(dataset) == 12
    assert dataset.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert dataset.class_names == ["sierpinski_triangle", "barnsley_fern", "heighway_dragon"]
    image, label = dataset[6]
    assert (image.mode, image.size, label) == ("RGB", (16, 16), 1)
    assert np.array_equal(np.asarray(image), render_fractals(1, [2], 16)[0])
    assert dataset.name(6) == "barnsley_fern/2"
    assert dataset.name(-1) == "heighway_dragon/3"
    assert dataset.is_labeled


def test_train_and_test_share_no_image(tmp_path: Path) -> None:
    train, test = (FractalDataset(split, SMALL, tmp_path) for split in ("train", "test"))
    assert len(test) == 15
    images = np.concatenate([train.images, test.images]).reshape(27, -1)
    assert len(np.unique(images, axis=0)) == 27
    assert train.description.fingerprint != test.description.fingerprint


def test_the_second_time_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.array(FractalDataset("test", SMALL, tmp_path).images)
    monkeypatch.setattr("synco_hub.data.fractals.dataset.render_fractals", None)
    again = FractalDataset("test", SMALL, tmp_path)
    assert np.array_equal(again.images, drawn)
    assert isinstance(again.images, np.memmap)
    assert [path.suffix for path in (tmp_path / "fractals").iterdir()] == [".npy"]


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other"])
def test_a_damaged_cache_is_drawn_anew(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drawn = np.array(FractalDataset("train", SMALL, tmp_path).images)
    (cache,) = (tmp_path / "fractals").iterdir()
    data = cache.read_bytes()
    cache.write_bytes({"empty": b"", "cut": data[:-7], "text": b"no array", "other": b""}[damage])
    if damage == "other":
        np.save(cache, np.zeros((2, 2)))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(FractalDataset("train", SMALL, tmp_path).images, drawn)
    assert "drawn anew" in caplog.text
    assert cache.read_bytes() == data


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    dataset = FractalDataset("train", SMALL, tmp_path / "file")
    assert dataset.images.shape == (12, 16, 16, 3)
    assert "cannot be kept" in caplog.text


def test_worker_processes_map_the_file_instead_of_copying(tmp_path: Path) -> None:
    dataset = FractalDataset("train", FractalParameters(2, 50, 1, 32), tmp_path)
    expected = [np.asarray(dataset[index].image) for index in range(4)]
    assert len(pickle.dumps(dataset)) < 20_000
    loader = DataLoader(dataset, num_workers=1, collate_fn=first, sampler=range(4), multiprocessing_context="fork")
    for sample, pixels in zip(loader, expected, strict=True):
        assert np.array_equal(np.asarray(sample.image), pixels)


def test_the_default_place_is_the_home_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCO_HUB_HOME", os.fspath(tmp_path))
    assert len(FractalDataset("test", SMALL).images) == 15
    assert len(list((tmp_path / "data" / "fractals").iterdir())) == 1


def test_every_setting_changes_the_fingerprint(tmp_path: Path) -> None:
    settings = [SMALL, FractalParameters(4, 4, 5, 16), FractalParameters(3, 5, 5, 16), FractalParameters(3, 4, 5, 17)]
    prints = [FractalDataset("train", setting, tmp_path).description.fingerprint for setting in settings]
    assert len(set(prints)) == 4
    assert prints[0] == FractalDataset("train", SMALL, tmp_path / "elsewhere").description.fingerprint


def test_other_nuisance_defaults_are_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = FractalDataset("train", SMALL, tmp_path)
    old_pixels = np.array(before.images)
    smaller = Nuisance(fill=(0.5, 0.6))
    for module in ("drawing", "dataset"):
        monkeypatch.setattr(f"synco_hub.data.fractals.{module}.Nuisance", lambda: smaller)
    after = FractalDataset("train", SMALL, tmp_path)
    assert after.description.fingerprint != before.description.fingerprint
    assert not np.array_equal(after.images, old_pixels)


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="num_classes 0"):
        FractalParameters(num_classes=0)
    with pytest.raises(ValueError, match="image_size 7"):
        FractalParameters(image_size=7)
    with pytest.raises(ValueError, match="split 'val'"):
        FractalDataset("val")
