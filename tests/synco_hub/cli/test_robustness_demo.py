"""The demonstration's steps, and its table and figure from results that are known."""

import subprocess

import pytest
from command_line import invoke
from PIL import Image

from synco_hub.cli import robustness_demo
from synco_hub.cli.robustness_demo import FAMILIES, Curve, draw, robustness_figure, table
from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS
from synco_hub.evaluation.robustness import AccuracyCell, compute_robustness_metrics
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """What would be run; the classifier appears as if it had been trained."""
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    started = []

    class Done:
        returncode = 0

    def run(command, env):
        started.append(command[3:])
        folder = next((flag.split("=", 1)[1] for flag in command if flag.startswith("--output-dir=")), None)
        if folder:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "model.safetensors").touch()
        if Done.returncode:
            raise subprocess.CalledProcessError(Done.returncode, command)

    monkeypatch.setattr(robustness_demo, "run_child", run)
    return started, Done


def test_where_steps_are_given_a_backbone_is_pretrained_and_nothing_is_done_twice(commands, tmp_path):
    started, _ = commands
    classifier = robustness_demo._classifier(tmp_path / "out", None, 7)
    assert [command[0] for command in started] == ["pretrain", "linear-probe"]
    assert "--max-steps=7" in started[0]
    assert f"--model={tmp_path / 'out' / 'pretraining'}" in started[1]
    assert robustness_demo._classifier(tmp_path / "out", None, 7) == classifier
    assert len(started) == 2


def test_a_given_backbone_or_the_one_that_ships_is_used(commands, tmp_path):
    started, _ = commands
    robustness_demo._classifier(tmp_path / "given", "moby-vit-nano", 7)
    robustness_demo._classifier(tmp_path / "ships", None, None)
    models = ["--model=moby-vit-nano", "--model=synco-v2-vit-nano"]
    assert [command[:2] for command in started] == [["linear-probe", model] for model in models]


def test_a_classifier_of_another_backbone_is_not_taken(commands, tmp_path):
    started, _ = commands
    probe = robustness_demo._classifier(tmp_path / "out", "timm:vit_tiny_patch16_224", 7)
    (probe / "model.safetensors").rename(probe / "linear_head.safetensors")  # a foreign backbone has a head alone
    (probe / robustness_demo.PROBE_SETTINGS).write_text('{"model": "timm:vit_tiny_patch16_224"}')
    for model in ("timm:vit_tiny_patch16_224", None):
        assert robustness_demo._classifier(tmp_path / "out", model, 7) == probe
    assert len(started) == 1
    with pytest.raises(ValueError, match="is a classifier on timm:vit_tiny_patch16_224, not on moby-vit-nano"):
        robustness_demo._classifier(tmp_path / "out", "moby-vit-nano", 7)


def test_a_failing_step_ends_the_demonstration_and_a_null_attack_does_not(commands, tmp_path):
    _, done = commands
    done.returncode = robustness_demo.NULL_EXIT_CODE
    robustness_demo._run("evaluate", "adversarial")
    for arguments, code in ((("evaluate", "robustness"), 3), (("evaluate", "adversarial"), 1)):
        done.returncode = code
        with pytest.raises(ValueError, match=f"ended with exit code {code}"):
            robustness_demo._run(*arguments)


@pytest.mark.slow
def test_the_whole_demonstration(monkeypatch, tmp_path):
    pytest.importorskip("torchattacks")
    pytest.importorskip("imagecorruptions")
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    flags = [
        "robustness-demo",
        "--output-dir",
        str(tmp_path / "out"),
        "--pretraining-steps",
        "20",
        "--num-images",
        "20",
    ]
    done = invoke(flags)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "robustness.png").stat().st_size > 20_000
    assert "| glass_blur (blur) |" in (tmp_path / "out" / "table.md").read_text()


@pytest.fixture
def results(tmp_path):
    cells = {"clean": AccuracyCell(100, 80)}
    for place, name in enumerate(BENCHMARK_CORRUPTIONS):
        for severity in range(1, 6):
            cells[f"corrupted/{name}/{severity}"] = AccuracyCell(100, 75 - 10 * severity + place)
    facts = ProtocolFacts("robustness_on_the_fly", {"cells": {key: cell.to_dict() for key, cell in cells.items()}})
    data = DataSource("fractals", "test", 100, num_classes=10)
    EvaluationResult(compute_robustness_metrics(cells), ModelSource("m"), data, facts).save(
        tmp_path / "corrupted.json"
    )
    for number in (1, 2, 4, 8):
        metrics = {"top1_clean": 80.0, "top1_fgsm": 60.0 - 5 * number, "top1_pgd": 50.0 - 5 * number}
        EvaluationResult(metrics, ModelSource("m"), data, ProtocolFacts("adversarial")).save(
            tmp_path / f"{number}.json"
        )
    return tmp_path


def test_the_table_has_every_cell(results):
    text = table(results / "corrupted.json", results / "8.json")
    assert "| fog (weather) | 74.0 | 64.0 | 54.0 | 44.0 | 34.0 | 54.0 |" in text
    assert "### adversarial" in text
    assert text.count("(blur)") == 4
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(BENCHMARK_CORRUPTIONS)


def test_the_figure_is_written(results):
    weaker = {number: results / f"{number}.json" for number in (4, 1, 2)}
    picture = draw(results / "corrupted.json", results / "8.json", weaker, results / "figure.png")
    with Image.open(picture) as image:
        assert image.width > 1000


LEFT = [Curve("noise", (0, 1, 2), (90.0, 50.0, 20.0)), Curve("blur", (0, 1, 2), (90.0, 60.0, 40.0))]
RIGHT = [Curve("FGSM", (0, 8), (90.0, 10.0)), Curve("blur", (0, 8), (90.0, 5.0))]


def test_both_panels_show_the_numbers_under_one_legend():
    figure = robustness_figure(LEFT, RIGHT, 10.0, "title", "a note")
    left, right = figure.axes
    drawn = {line.get_label(): line for line in left.lines}
    assert list(drawn["noise"].get_ydata()) == [90.0, 50.0, 20.0]
    assert list(drawn["chance"].get_ydata()) == [10.0, 10.0]
    assert left.get_legend() is None
    assert right.get_legend() is None
    (legend,) = figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["FGSM", "blur", "chance", "noise"]
    assert legend.get_title().get_text() == "a note"
    styles = [
        (line.get_color(), line.get_marker()) for line in (*left.lines, *right.lines) if line.get_label() != "chance"
    ]
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 3
    assert {line.get_color() for axes in figure.axes for line in axes.lines if line.get_label() == "blur"} == {
        drawn["blur"].get_color()
    }


def test_curves_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 places and 2 accuracies"):
        robustness_figure([Curve("noise", (0, 1, 2), (1.0, 2.0))], [], 10.0, "t")
    with pytest.raises(ValueError, match="8 curves: 7 can be told apart"):
        robustness_figure([Curve(str(index), (0,), (1.0,)) for index in range(8)], [], 10.0, "t")
