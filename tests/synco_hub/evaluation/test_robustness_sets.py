import sys
from types import SimpleNamespace

import pytest

from synco_hub.data import EvaluationTransform, load_dataset
from synco_hub.data.catalog.robustness import BENCHMARK_CORRUPTIONS
from synco_hub.evaluation.robustness_sets import (
    ROBUSTNESS_SETS,
    checked_corruptions,
    chosen_sets,
    corruption_folders,
    found_folder,
    planned_cells,
    planned_corruptions,
)

TRANSFORM = EvaluationTransform(32)


def test_sets_are_named_and_found_where_their_archives_unpack(tmp_path):
    assert chosen_sets("all") == list(ROBUSTNESS_SETS)
    assert chosen_sets("imagenet-r, imagenet-a,imagenet-r") == ["imagenet-r", "imagenet-a"]
    with pytest.raises(ValueError, match=r"\['imagenet-x'\] given, known are imagenet,"):
        chosen_sets("imagenet-x")
    (tmp_path / "sketch").mkdir()
    assert found_folder("imagenet-sketch", tmp_path) == tmp_path / "sketch"
    with pytest.raises(FileNotFoundError, match="looked for imagenet-r/"):
        found_folder("imagenet-r", tmp_path)
    with pytest.raises(ValueError, match="imagenet-c has no copy on the Hub"):
        planned_cells("imagenet-c", None, TRANSFORM)


def test_missing_corruption_folders_are_all_listed(tmp_path):
    for name in BENCHMARK_CORRUPTIONS:
        for severity in range(1, 6):
            archive = "noise" if name.endswith("noise") else "."
            (tmp_path / archive / name / str(severity)).mkdir(parents=True)
    (tmp_path / "spatter" / "1").mkdir(parents=True)
    folders = corruption_folders(tmp_path)
    assert len(folders) == 75
    assert folders["shot_noise", 2] == tmp_path / "noise" / "shot_noise" / "2"
    assert "spatter" not in {name for name, _ in folders}
    (tmp_path / "fog" / "3").rmdir()
    (tmp_path / "snow" / "1").rmdir()
    with pytest.raises(ValueError, match=r"2 of the folders .* are missing: snow/1, fog/3; unpack"):
        corruption_folders(tmp_path)
    assert len(corruption_folders(tmp_path, ["frost"])) == 5
    with pytest.raises(ValueError, match="the hold-outs gaussian_blur, saturate"):
        checked_corruptions(["spatter"])


def test_on_the_fly_cells_cover_the_benchmark(tmp_path):
    images = load_dataset("fractals:test_images_per_class=1", "test", cache_dir=tmp_path)
    plan = planned_corruptions(images, TRANSFORM, seed=1)
    assert [cell.key for cell in plan][:2] == ["clean", "corrupted/gaussian_noise/1"]
    assert len({cell.key for cell in plan}) == 76
    assert plan[40].open().change.name in plan[40].key


def test_the_watermark_is_asked_for_before_anything_is_measured(tmp_path, planted, monkeypatch):
    planted.write(tmp_path / "val" / planted.names[3] / "a.png", 3)
    monkeypatch.setitem(sys.modules, "imagenet_w", None)
    with pytest.raises(ImportError, match="pip install imagenet-w"):
        planned_cells("imagenet-w", tmp_path, TRANSFORM)
    monkeypatch.setitem(
        sys.modules, "imagenet_w", SimpleNamespace(AddWatermark=lambda size: lambda view: view * 0 + 1)
    )
    (cell,) = planned_cells("imagenet-w", tmp_path, TRANSFORM)
    assert (cell.open()[0]["pixel_values"] > 2).all()
