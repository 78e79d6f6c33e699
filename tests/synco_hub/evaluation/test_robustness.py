import json
import os
import shutil
from dataclasses import replace

import pytest

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation.robustness import RobustnessFacts, RobustnessRun
from synco_hub.evaluation.shifts.robustness_sets import PlannedCell, planned_cells
from synco_hub.features import ExtractionSettings

QUIET = ExtractionSettings(batch_size=8, progress=False)
FACTS = RobustnessFacts("robustness", "ImageNet variants", "here", {"steps": "crop"})


@pytest.fixture
def root(tmp_path, planted):
    """Three sets; ImageNet-V2's folders are numbers, where 100 sorts before 2."""
    for label in (0, 2, 10, 100):
        planted.write(tmp_path / "imagenetv2-top-images-format-val" / str(label) / "a.jpeg", label)
    planted.write(tmp_path / "imagenetv2-top-images-format-val" / "2" / "b.jpeg", 100)
    for index in (5, 6):
        planted.write(tmp_path / "sketch" / planted.names[index] / "a.JPEG", 5)
    return tmp_path


def run_of(root, planted, sets=("imagenet-v2-ti", "imagenet-sketch"), facts=FACTS):
    transform = EvaluationTransform.from_image_processor(planted.processor)
    plan = [cell for name in sets for cell in planned_cells(name, root, transform)]
    return RobustnessRun(planted.classifier, planted.names, "planted", plan, facts, QUIET)


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
    again.plan[0] = replace(again.plan[0], open=lambda: pytest.fail("measured twice"))
    (last,) = again.results()
    assert last.metrics == {"imagenet_v2_ti_top1": 80.0, "imagenet_sketch_top1": 50.0}
    last.save(output)
    # Another set joins what is there; nothing left to do gives the result once.
    only = run_of(root, planted, sets=("imagenet-sketch",))
    assert only.take_finished(output) == 2
    assert [result.metrics for result in only.results()] == [last.metrics]
    with pytest.raises(ValueError, match=r"holds another measurement \(seed: None there, 4 now\)"):
        run_of(root, planted, facts=replace(FACTS, seed=4)).take_finished(output)
    with pytest.raises(ValueError, match="'robustness_on_the_fly' is asked for"):
        run_of(root, planted, facts=replace(FACTS, protocol="robustness_on_the_fly")).take_finished(output)
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
    plan = [replace(planned_cells("imagenet-sketch", root, transform)[0], open=lambda: pytest.fail("opened"))]
    with pytest.raises(ValueError, match="3 classes cover 0 of the 1000"):
        RobustnessRun(planted.classifier, ("a", "b", "c"), "planted", plan, FACTS, QUIET)
    images = load_dataset("fractals:test_images_per_class=1", "test", cache_dir=tmp_path / "cache")
    own = [PlannedCell("clean", lambda: EvaluationDataset(images, transform))]
    with pytest.raises(ValueError, match="the head has 1000 classes, the data set 10"):
        list(RobustnessRun(planted.classifier, planted.names, "planted", own, FACTS, QUIET).results())
