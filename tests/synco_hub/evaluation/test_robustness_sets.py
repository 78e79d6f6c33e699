import sys
from types import SimpleNamespace

import pytest

from synco_hub.data import EvaluationTransform, load_dataset
from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS, CATALOG
from synco_hub.evaluation.robustness_sets import (
    ROBUSTNESS_SETS,
    check_corruptions,
    choose_sets,
    plan_cells,
    plan_corruptions,
)

TRANSFORM = EvaluationTransform(32)


def test_sets_are_named_and_found_where_their_archives_unpack(tmp_path):
    assert choose_sets("all") == list(ROBUSTNESS_SETS)
    assert choose_sets("imagenet-r, imagenet-a,imagenet-r") == ["imagenet-r", "imagenet-a"]
    with pytest.raises(ValueError, match=r"\['imagenet-x'\] given, known are imagenet,"):
        choose_sets("imagenet-x")
    assert all(each.dataset in CATALOG for each in ROBUSTNESS_SETS.values())
    with pytest.raises(FileNotFoundError, match="looked for imagenet-r/"):
        plan_cells("imagenet-r", tmp_path, TRANSFORM)
    for name, folder in (("imagenet-c", "imagenet-c/"), ("imagenet-v2-ti", "imagenetv2-top-images-format-val/")):
        with pytest.raises(ValueError, match=f"{name} has no copy on the Hub: give the folder that holds {folder}"):
            plan_cells(name, None, TRANSFORM)
    (cell,) = plan_cells("imagenet-r", None, TRANSFORM)
    assert (cell.key, cell.class_list) == ("imagenet_r", "imagenet_r")


def test_corruptions_are_cells_of_the_fifteen_and_missing_folders_are_all_listed(tmp_path, planted):
    for name in (*BENCHMARK_CORRUPTIONS, "spatter"):
        for severity in range(1, 6):
            archive = "noise" if name.endswith("noise") else "."
            (tmp_path / "imagenet-c" / archive / name / str(severity)).mkdir(parents=True)
    planted.write(tmp_path / "imagenet-c" / "noise" / "shot_noise" / "2" / planted.names[3] / "a.png", 3)
    cells = plan_cells("imagenet-c", tmp_path, TRANSFORM)
    assert [cell.key for cell in cells] == [
        f"imagenet_c/{name}/{severity}" for name in BENCHMARK_CORRUPTIONS for severity in range(1, 6)
    ]
    (opened,) = (cell.open().images for cell in cells if cell.key == "imagenet_c/shot_noise/2")
    assert opened.description.source == str(tmp_path / "imagenet-c/noise/shot_noise/2")
    (tmp_path / "imagenet-c/fog/3").rmdir()
    (tmp_path / "imagenet-c/snow/1").rmdir()
    with pytest.raises(ValueError, match=r"2 of the folders .* are missing: snow/1, fog/3; unpack"):
        plan_cells("imagenet-c", tmp_path, TRANSFORM)
    assert len(plan_cells("imagenet-c", tmp_path, TRANSFORM, ["frost"])) == 5
    with pytest.raises(ValueError, match="the hold-outs gaussian_blur, saturate"):
        plan_cells("imagenet-c", tmp_path, TRANSFORM, ["spatter"])
    with pytest.raises(ValueError, match="the hold-outs gaussian_blur, saturate"):
        check_corruptions(["spatter"])


def test_on_the_fly_cells_cover_the_benchmark(tmp_path):
    images = load_dataset("fractals:test_images_per_class=1", "test", cache_dir=tmp_path)
    plan = plan_corruptions(images, TRANSFORM, seed=1)
    assert [cell.key for cell in plan][:2] == ["clean", "corrupted/gaussian_noise/1"]
    assert len({cell.key for cell in plan}) == 76
    assert plan[40].open().change.name in plan[40].key
    assert {cell.key.split("/")[1] for cell in plan if cell.drawing > 1} == {"elastic_transform", "glass_blur"}


def test_the_watermark_is_asked_for_before_anything_is_measured(tmp_path, planted, monkeypatch):
    planted.write(tmp_path / "val" / planted.names[3] / "a.png", 3)
    monkeypatch.setitem(sys.modules, "imagenet_w", None)
    with pytest.raises(ImportError, match="pip install imagenet-w"):
        plan_cells("imagenet-w", tmp_path, TRANSFORM)
    monkeypatch.setitem(
        sys.modules, "imagenet_w", SimpleNamespace(AddWatermark=lambda size: lambda view: view * 0 + 1)
    )
    (cell,) = plan_cells("imagenet-w", tmp_path, TRANSFORM)
    assert (cell.open()[0]["pixel_values"] > 2).all()
