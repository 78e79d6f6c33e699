"""`synco-hub evaluate` of one protocol, as a user calls it."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from command_line import invoke

from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS
from synco_hub.data.class_lists import read_class_list
from synco_hub.results import EvaluationResult


@pytest.fixture
def command(monkeypatch, planted):
    def load(name):
        return planted.classifier, planted.processor, planted.names

    monkeypatch.setattr("synco_hub.hub.loading.load_classifier", load)

    def run(*flags):
        flags = ["evaluate", "robustness", "--model", "planted", "--device", "cpu", *map(str, flags)]
        return invoke(flags)

    return run


@pytest.fixture
def root(tmp_path, planted):
    """All sets in the official layouts, one or two images a folder, with accuracies chosen here."""
    wnids, place = planted.names, {name: index for index, name in enumerate(planted.names)}
    for label in (0, 2, 10, 100):
        for folder in ("matched-frequency", "threshold0.7", "top-images"):
            guess = label if folder != "threshold0.7" or label == 2 else label + 1
            planted.write(tmp_path / f"imagenetv2-{folder}-format-val" / str(label) / "a.jpeg", guess)
    for name in ("imagenet_a", "imagenet_r"):
        subset = read_class_list(name)
        for number, wnid in enumerate(subset):
            # Every fourth is right; the next is wrong among 1000 only, since its first guess is outside the subset.
            outside = next(
                index for index in range(place[wnid] - 1, -2, -1) if index < 0 or wnids[index] not in subset
            )
            close = outside >= 0 and place[wnid] - outside <= 25
            guess = place[wnid] if number % 4 == 0 or not close else outside
            folder = tmp_path / name.replace("_", "-") / wnid
            planted.write(folder / "a.jpg", guess, place[wnid] - guess)
    for index in (7, 8, 9, 10):
        planted.write(tmp_path / "sketch" / wnids[index] / "a.JPEG", 7 if index > 8 else index)
        planted.write(tmp_path / "imagenet" / "val" / wnids[index] / "a.JPEG", index if index < 10 else 0)
    for corruption in [*BENCHMARK_CORRUPTIONS, "spatter"]:
        for severity in range(1, 6):
            for index in (1, 2):
                right = corruption != "spatter" and (index == 1 or severity < 3)
                path = tmp_path / "imagenet-c" / corruption / str(severity) / wnids[index] / "a.JPEG"
                planted.write(path, index if right else 999)
    return tmp_path


def test_planted_accuracies_of_every_set(command, root, planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagenet_w", SimpleNamespace(AddWatermark=lambda size: torch.zeros_like))
    output = root / "robustness.json"
    done = command("--data-dir", root, "--output", output)
    assert done.exit_code == 0, done.output
    result = EvaluationResult.load(output, "robustness")
    measured = result.metrics
    assert not result.partial
    assert {
        name: measured[name] for name in measured if name.startswith(("imagenet_v2", "imagenet_top1", "imagenet_w"))
    } == {
        "imagenet_top1": 75.0,
        "imagenet_v2_mf_top1": 100.0,
        "imagenet_v2_t0.7_top1": 25.0,
        "imagenet_v2_ti_top1": 100.0,
        "imagenet_w_top1": 0.0,
        "imagenet_w_gap": -75.0,
    }
    assert measured["imagenet_sketch_top1"] == 50.0
    # Severities 1 and 2 are all right, the others half; the hold-out corruption would have lowered the mean.
    assert measured["imagenet_c_top1"] == pytest.approx((2 * 100 + 3 * 50) / 5)
    assert measured["imagenet_c_fog_3_top1"] == 50.0
    assert measured["imagenet_c_mce"] == pytest.approx(sum(100 * 0.3 / error for error in published_errors()) / 15)
    for name in ("imagenet_a", "imagenet_r"):
        assert measured[f"{name}_top1_of_200"] == 100.0
        assert 20 < measured[f"{name}_top1_of_1000"] < 60
    again = command("--data-dir", root, "--output", output)
    assert "83 of 83 cells are in" in again.output
    assert EvaluationResult.load(output).metrics == measured


def published_errors():
    text = (
        "0.886428 0.894468 0.922640 0.819880 0.826268 0.785948 0.798360 0.866816 0.826572 0.819324 0.564592 0.853204 "
        "0.646056 0.717840 0.606500"
    )
    return [float(number) for number in text.split()]


def test_absent_sets_are_left_out_if_not_named_and_errors_if_they_are(command, root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagenet_w", None)
    output = root / "some.json"
    # The folder that holds the set's own, and that itself.
    for data_dir in (root / "sketch" / "..", root / "sketch"):
        done = command("--data-dir", data_dir, "--sets", "imagenet-sketch", "--output", output)
        assert done.exit_code == 0, done.output
        assert EvaluationResult.load(output).metrics == {"imagenet_sketch_top1": 50.0}
    for flags, text in (
        (["--data-dir", root, "--sets", "imagenet-w"], "pip install imagenet-w"),
        (["--data-dir", root / "sketch", "--sets", "imagenet-r"], "imagenet-r is not in"),
        (["--data-dir", root / "imagenet" / "val"], "none of the sets is in"),
        (["--data-dir", root / "nowhere"], "no such folder"),
        (["--sets", "imagenet-c"], "no copy on the Hub"),
        ([], "--data-dir is missing"),
        (["--data-dir", root, "--num-images", 3], "--num-images goes with --on-the-fly"),
        (["--data-dir", root, "--sets", "imagenet-c", "--corruptions", "rain"], "corruptions ['rain']"),
        (["--data-dir", root, "--sets", "imagenet-c", "--corruptions", ","], "corruptions none: use some of"),
    ):
        done = command(*flags, "--output", tmp_path / "x.json")
        assert done.exit_code == 1
        assert text in str(done.exception)
        assert not (tmp_path / "x.json").exists()


def test_missing_folders_and_missing_classes_are_named(command, root, planted, tmp_path):
    for severity in (4, 5):
        (root / "imagenet-c" / "snow" / str(severity)).rename(root / f"away{severity}")
    done = command("--data-dir", root, "--sets", "imagenet-c", "--output", tmp_path / "x.json")
    assert "2 of the folders <corruption>/<severity> are missing: snow/4, snow/5;" in str(done.exception)
    (root / "imagenet-a" / read_class_list("imagenet_a")[0]).rename(root / "away")
    done = command("--data-dir", root, "--sets", "imagenet-a", "--output", tmp_path / "x.json")
    assert "images of 199 of 200 classes" in str(done.exception)


def test_on_the_fly_is_partial_on_a_subset_and_says_what_it_is_not(command, tmp_path, planted, monkeypatch):
    pytest.importorskip("imagecorruptions")
    wnids = read_class_list("imagenet_1k")
    for index in (400, 401, 402):
        planted.write(tmp_path / "data" / "test" / wnids[index] / "a.png", index)
    monkeypatch.setattr(planted, "names", tuple(wnids[400:403]))
    monkeypatch.setattr(planted.classifier, "num_classes", 3)
    output = tmp_path / "fly.json"
    flags = ("--on-the-fly", "--dataset", tmp_path / "data", "--corruptions", "contrast,fog", "--output", output)
    done = command(*flags, "--num-images", 2)
    assert done.exit_code == 0, done.output
    result = EvaluationResult.load(output, "robustness_on_the_fly")
    assert result.partial
    assert len(result.protocol.parameters["cells"]) == 11
    assert "corruptions drawn on the fly, not the files of ImageNet-C" in result.notes
    assert "corrupted_top1" not in result.metrics
    assert "fog" in done.output
    kept = json.loads(output.read_text())
    assert command(*flags, "--num-images", 2).exit_code == 0
    assert json.loads(output.read_text())["metrics"] == kept["metrics"]
    assert "holds another measurement (data: " in str(command(*flags).exception)
    assert "leave --sets" in str(command(*flags, "--sets", "all").exception)
