from dataclasses import replace

import pytest

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation.robustness import RobustnessFacts, RobustnessRun
from synco_hub.evaluation.robustness_sets import PlannedCell, planned_cells
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
    with pytest.raises(ValueError, match="holds another measurement"):
        run_of(root, planted, facts=replace(FACTS, seed=4)).take_finished(output)
    with pytest.raises(ValueError, match="'robustness_on_the_fly' is asked for"):
        run_of(root, planted, facts=replace(FACTS, protocol="robustness_on_the_fly")).take_finished(output)
    assert run_of(root, planted).take_finished(root / "none.json") == 0


def test_classes_are_checked_before_the_first_image(root, planted, tmp_path):
    transform = EvaluationTransform(32)
    plan = [replace(planned_cells("imagenet-sketch", root, transform)[0], open=lambda: pytest.fail("opened"))]
    with pytest.raises(ValueError, match="3 classes cover 0 of the 1000"):
        RobustnessRun(planted.classifier, ("a", "b", "c"), "planted", plan, FACTS, QUIET)
    images = load_dataset("fractals:test_images_per_class=1", "test", cache_dir=tmp_path / "cache")
    own = [PlannedCell("clean", lambda: EvaluationDataset(images, transform))]
    with pytest.raises(ValueError, match="the head has 1000 classes, the data set 10"):
        list(RobustnessRun(planted.classifier, planted.names, "planted", own, FACTS, QUIET).results())
