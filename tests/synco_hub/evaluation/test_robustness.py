import json
import os
import random
import shutil
from dataclasses import replace

import pytest
import torch

from synco_hub.data import EvaluationDataset, EvaluationTransform, ImageFolderDataset, load_dataset
from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.robustness import (
    AccuracyCell,
    RobustnessRun,
    compute_robustness_metrics,
    measure_cell,
    tabulate_severities,
)
from synco_hub.evaluation.robustness_sets import PlannedCell, RobustnessPlan, plan_cells
from synco_hub.settings import ForwardSettings

QUIET = ForwardSettings(batch_size=8, num_workers=0, progress=False)
PLAN = RobustnessPlan([], "robustness", "ImageNet variants", "here", {"steps": "crop"})


@pytest.fixture
def root(tmp_path, planted):
    """Three sets; ImageNet-V2's folders are numbers, where 100 sorts before 2."""
    for label in (0, 2, 10, 100):
        planted.write(tmp_path / "imagenetv2-top-images-format-val" / str(label) / "a.jpeg", label)
    planted.write(tmp_path / "imagenetv2-top-images-format-val" / "2" / "b.jpeg", 100)
    for index in (5, 6):
        planted.write(tmp_path / "sketch" / planted.names[index] / "a.JPEG", 5)
    return tmp_path


def model_of(planted):
    return EvaluatedModel(planted.classifier, planted.processor, "planted", planted.names)


def run_of(root, planted, sets=("imagenet-v2-ti", "imagenet-sketch"), plan=PLAN):
    transform = EvaluationTransform.from_image_processor(planted.processor)
    cells = [cell for name in sets for cell in plan_cells(name, root, transform)]
    return RobustnessRun(model_of(planted), replace(plan, cells=cells), QUIET)


def test_planted_accuracies_are_found_and_the_first_result_is_partial(root, planted):
    first, last = run_of(root, planted).results()
    assert first.metrics == {"imagenet_v2_ti_top1": 80.0}
    assert first.partial
    assert "not finished: 1 of 2 cells, first imagenet_sketch" in first.notes
    assert last.metrics == {"imagenet_v2_ti_top1": 80.0, "imagenet_sketch_top1": 50.0}
    assert not last.partial
    assert last.dataset.count == 7


def test_finished_cells_are_taken_and_not_measured_again(root, planted):
    output = root / "out.json"
    run = run_of(root, planted)
    next(run.results()).save(output)
    again = run_of(root, planted, sets=("imagenet-v2-ti", "imagenet-sketch"))
    assert again.take_finished(output) == 1
    again.plan.cells[0] = replace(again.plan.cells[0], open=lambda: pytest.fail("measured twice"))
    (last,) = again.results()
    assert last.metrics == {"imagenet_v2_ti_top1": 80.0, "imagenet_sketch_top1": 50.0}
    last.save(output)
    # Another set joins what is there; nothing left to do gives the result once.
    only = run_of(root, planted, sets=("imagenet-sketch",))
    assert only.take_finished(output) == 2
    assert [result.metrics for result in only.results()] == [last.metrics]
    # What an earlier version called the same data is no other data.
    known = json.loads(output.read_text())["protocol"]["parameters"]["identity"]["data"]
    renamed = replace(PLAN, data_fingerprint="new", earlier_fingerprint=known)
    assert run_of(root, planted, plan=renamed).take_finished(output) == 2
    with pytest.raises(ValueError, match=r"holds another measurement \(data: "):
        run_of(root, planted, plan=replace(renamed, earlier_fingerprint=None)).take_finished(output)
    with pytest.raises(ValueError, match=r"holds another measurement \(seed: None there, 4 now\)"):
        run_of(root, planted, plan=replace(PLAN, seed=4)).take_finished(output)
    with pytest.raises(ValueError, match="'robustness_on_the_fly' is asked for"):
        run_of(root, planted, plan=replace(PLAN, protocol="robustness_on_the_fly")).take_finished(output)
    assert run_of(root, planted).take_finished(root / "none.json") == 0


@pytest.mark.parametrize("cells", [None, [], 5, {"imagenet_sketch": 5}, {"imagenet_sketch": {"images": 3}}])
def test_an_edited_result_is_refused_in_one_line(root, planted, cells):
    output = root / "out.json"
    next(run_of(root, planted).results()).save(output)
    edited = json.loads(output.read_text())
    if cells is None:
        del edited["protocol"]["parameters"]["cells"]
    else:
        edited["protocol"]["parameters"]["cells"] = cells
    output.write_text(json.dumps(edited))
    with pytest.raises(ValueError, match=r"out\.json holds no cells that could be continued.*remove it"):
        run_of(root, planted).take_finished(output)


def test_cells_of_replaced_images_are_measured_anew_and_those_of_equal_ones_are_not(root, planted, caplog):
    output = root / "out.json"
    for result in run_of(root, planted).results():
        result.save(output)
    # Elsewhere, with other times: the same images.
    moved = root / "moved"
    for name in ("imagenetv2-top-images-format-val", "sketch"):
        shutil.copytree(root / name, moved / name)
    assert run_of(moved, planted).take_finished(output) == 2
    # Another image of the same name and size, by the same clock.
    file = moved / "sketch" / planted.names[6] / "a.JPEG"
    before = file.stat()
    planted.write(file, 6)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = run_of(moved, planted)
    assert again.take_finished(output) == 1
    assert "the images of 1 cells are others now, which are measured anew: imagenet_sketch" in caplog.text
    (last,) = again.results()
    assert last.metrics == {"imagenet_v2_ti_top1": 80.0, "imagenet_sketch_top1": 100.0}
    # One more image under another name.
    planted.write(moved / "sketch" / planted.names[6] / "b.JPEG", 0)
    assert run_of(moved, planted).take_finished(output) == 1


def test_cells_of_a_corruption_that_was_drawn_otherwise_are_measured_anew(root, planted):
    output = root / "out.json"
    run = run_of(root, planted)
    (cell, other) = run.plan.cells
    for result in run.results():
        result.save(output)
    stored = json.loads(output.read_text())
    # Version 0.1 said nothing of it.
    for values in stored["protocol"]["parameters"]["cells"].values():
        assert values.pop("drawing") == 1
    output.write_text(json.dumps(stored))
    now = RobustnessRun(run.model, replace(run.plan, cells=[cell, replace(other, drawing=2)]), QUIET)
    assert now.take_finished(output) == 1
    (last,) = now.results()
    last.save(output)
    assert now.cells[other.key].drawing == 2
    assert RobustnessRun(run.model, now.plan, QUIET).take_finished(output) == 2


def test_cells_of_another_model_are_refused(root, planted):
    output = root / "out.json"
    next(run_of(root, planted).results()).save(output)
    planted.classifier.scale.data += 1
    with pytest.raises(ValueError, match=r"another measurement \(weights: "):
        run_of(root, planted).take_finished(output)
    planted.classifier.scale.data -= 1
    planted.names = (planted.names[1], planted.names[0], *planted.names[2:])
    with pytest.raises(ValueError, match=r"another measurement \(classes: "):
        run_of(root, planted).take_finished(output)


def test_classes_are_checked_before_the_first_image(root, planted, tmp_path):
    transform = EvaluationTransform(32)
    plan = [replace(plan_cells("imagenet-sketch", root, transform)[0], open=lambda: pytest.fail("opened"))]
    with pytest.raises(ValueError, match="3 classes cover 0 of the 1000"):
        RobustnessRun(replace(model_of(planted), class_names=("a", "b", "c")), replace(PLAN, cells=plan), QUIET)
    images = load_dataset("fractals:test_images_per_class=1", "test", cache_dir=tmp_path / "cache")
    own = [PlannedCell("clean", lambda: EvaluationDataset(images, transform))]
    with pytest.raises(ValueError, match="the head has 1000 classes, the data set 10"):
        list(RobustnessRun(model_of(planted), replace(PLAN, cells=own), QUIET).results())


LENIENT = replace(QUIET, batch_size=3, max_bad_fraction=0.5)


def test_counts_among_all_and_among_the_sets_own_classes(tmp_path, planted):
    # Labels 0, 1, 2 of the set are the classes 10, 500, 900 of the classifier.
    columns = torch.tensor([10, 500, 900])
    guesses = [(0, 10, 0), (0, 11, -1), (1, 500, 0), (1, 900, 0), (2, 300, 0), (2, 901, 5)]
    for index, (_, guess, offset) in enumerate(guesses):
        planted.write(tmp_path / f"{index}.png", guess, max(offset, 0))
    (tmp_path / "6.png").write_bytes(b"broken")
    labels = [*(label for label, _, _ in guesses), 1]
    images = ImageFolderDataset(tmp_path, [f"{index}.png" for index in range(7)], labels, ["a", "b", "c"], "test", "")
    dataset = EvaluationDataset(images, EvaluationTransform(32))
    cell = measure_cell(planted.classifier, dataset, columns, LENIENT, "cell", with_subset=True)
    # Without a vote for any of the three the logits tie at 0, and the lowest label wins: image 1 is right so.
    assert (cell.images, cell.correct, cell.correct_of_subset) == (6, 2, 3)
    assert cell.skipped == ("6.png",)
    assert (cell.top1, cell.top1_of_subset) == (pytest.approx(100 / 3), 50.0)
    assert AccuracyCell.from_dict(cell.to_dict()) == cell
    plain = measure_cell(planted.classifier, dataset, columns, LENIENT, "cell")
    assert plain.top1_of_subset is None


def test_nothing_readable_is_an_error(tmp_path, planted):
    (tmp_path / "a.png").write_bytes(b"broken")
    images = ImageFolderDataset(tmp_path, ["a.png"], [0], ["a"], "test", "")
    settings = replace(QUIET, max_bad_fraction=1.0)
    with pytest.raises(ValueError, match="no image could be read"):
        measure_cell(
            planted.classifier, EvaluationDataset(images, EvaluationTransform(32)), torch.tensor([0]), settings, "cell"
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": None}, "missing"),
        ({"kappa": 2}, "unexpected keyword argument 'kappa'"),
        ({"correct": 4}, r"\(4, 2\) of 3 images cannot be right"),
        ({"correct": -1}, "cannot be right"),
        ({"correct_of_subset": 5}, "cannot be right"),
        ({"images": 0, "correct": 0, "correct_of_subset": 0}, "of 0 images cannot be right"),
        ({"images": "3"}, "not supported"),
        ({"skipped": 5}, "not iterable"),
    ],
)
def test_values_that_no_cell_gave_are_refused(changes, says):
    values = AccuracyCell(images=3, correct=1, correct_of_subset=2).to_dict() | changes
    with pytest.raises(ValueError, match=says):
        AccuracyCell.from_dict({name: value for name, value in values.items() if value is not None})


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
    metrics = compute_robustness_metrics(cells)
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
    metrics = compute_robustness_metrics(cells)
    assert "imagenet_c_top1" not in metrics
    assert "imagenet_c_mce" not in metrics
    assert "imagenet_c_fog_top1" not in metrics
    assert "imagenet_c_snow_top1" in metrics
    assert tabulate_severities("imagenet_c", cells)["fog"][4] is None
    drawn = compute_robustness_metrics(drawn_cells("corrupted"))
    assert "corrupted_top1" in drawn
    assert not [name for name in drawn if "mce" in name]


def test_subsets_have_two_accuracies_and_the_watermark_a_gap():
    cells = {
        "imagenet": AccuracyCell(50, 40),
        "imagenet_a": AccuracyCell(10, 3, 7),
        "imagenet_w": AccuracyCell(50, 25),
    }
    assert compute_robustness_metrics(cells) == {
        "imagenet_top1": 80.0,
        "imagenet_a_top1_of_200": 70.0,
        "imagenet_a_top1_of_1000": 30.0,
        "imagenet_w_top1": 50.0,
        "imagenet_w_gap": -30.0,
    }
