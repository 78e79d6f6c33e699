import random

import pytest

from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS
from synco_hub.evaluation.shifts.accuracy_cell import AccuracyCell
from synco_hub.evaluation.shifts.robustness_metrics import robustness_metrics, severity_table

# The benchmark's published mean errors of AlexNet, in the order of the list.
PUBLISHED = (
    "0.886428 0.894468 0.922640 0.819880 0.826268 0.785948 0.798360 0.866816 0.826572 0.819324 0.564592 0.853204 "
    "0.646056 0.717840 0.606500"
)
ALEXNET = dict(zip(BENCHMARK_CORRUPTIONS, map(float, PUBLISHED.split()), strict=True))


def drawn_cells(family, seed=0):
    generator = random.Random(seed)
    return {
        f"{family}/{name}/{severity}": AccuracyCell(200, generator.randrange(201))
        for name in BENCHMARK_CORRUPTIONS
        for severity in range(1, 6)
    }


def test_the_mean_over_75_cells_and_mce_are_those_of_a_loop():
    cells = drawn_cells("imagenet_c")
    metrics = robustness_metrics(cells)
    total, ratios = 0.0, []
    for name in BENCHMARK_CORRUPTIONS:
        errors = [1 - cells[f"imagenet_c/{name}/{severity}"].correct / 200 for severity in range(1, 6)]
        total += sum(100 * (1 - error) for error in errors)
        ratios.append(sum(errors) / (5 * ALEXNET[name]))
        assert metrics[f"imagenet_c_{name}_top1"] == pytest.approx(100 - 20 * sum(errors))
    assert metrics["imagenet_c_top1"] == pytest.approx(total / 75)
    assert metrics["imagenet_c_mce"] == pytest.approx(100 * sum(ratios) / 15)
    assert metrics["imagenet_c_snow_2_top1"] == cells["imagenet_c/snow/2"].correct / 2


def test_no_mean_before_every_cell_is_there_and_no_mce_for_drawn_corruptions():
    cells = drawn_cells("imagenet_c")
    del cells["imagenet_c/fog/5"]
    metrics = robustness_metrics(cells)
    assert "imagenet_c_top1" not in metrics
    assert "imagenet_c_mce" not in metrics
    assert "imagenet_c_fog_top1" not in metrics
    assert "imagenet_c_snow_top1" in metrics
    assert severity_table("imagenet_c", cells)["fog"][4] is None
    drawn = robustness_metrics(drawn_cells("corrupted"))
    assert "corrupted_top1" in drawn
    assert not [name for name in drawn if "mce" in name]


def test_subsets_have_two_accuracies_and_the_watermark_a_gap():
    cells = {
        "imagenet": AccuracyCell(50, 40),
        "imagenet_a": AccuracyCell(10, 3, 7),
        "imagenet_w": AccuracyCell(50, 25),
    }
    assert robustness_metrics(cells) == {
        "imagenet_top1": 80.0,
        "imagenet_a_top1_of_200": 70.0,
        "imagenet_a_top1_of_1000": 30.0,
        "imagenet_w_top1": 50.0,
        "imagenet_w_gap": -30.0,
    }
