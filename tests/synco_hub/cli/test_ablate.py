"""Arms differ in the method alone, finished runs are kept, and the table says what was found."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import invoke
from PIL import Image
from scipy import stats

from synco_hub.cli import ablate
from synco_hub.cli.ablate import (
    RESULT_FILE,
    UNTRAINED_RESULT_FILE,
    build_probing_command,
    build_shared_flags,
    choose_neighbours,
    measure_pixels,
    measure_untrained_run,
    run_name,
    training_command,
)
from synco_hub.cli.ablation_plan import PLAN_FILE, keep_to_the_plan
from synco_hub.cli.ablation_tables import (
    FinishedRun,
    compare_pairs,
    figure,
    markdown,
    require_metric,
    split_at_commas,
    summarize_runs,
    write_tables,
)
from synco_hub.data import load_dataset
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.settings import DatasetChoice
from trainers import linear_probe, pretrain
from trainers.recipe import parse
from trainers.synthetic_negatives import STRATEGIES

TINY = (
    "--backbone=vit-nano --depth=1 --queue-size=16 --num-hard-negatives=4 --projection-hidden-dim=16 "
    "--projection-dim=8 --per-device-train-batch-size=4 --dataloader-num-workers=0 --use-cpu --disable-tqdm=true"
).split()
DATA = "fractals:num_classes=2,train_images_per_class=8,test_images_per_class=4"


def test_arms_differ_in_nothing_but_the_method_and_the_seed(tmp_path):
    shared = build_shared_flags(DatasetChoice(), 40, ["--learning-rate=1e-3"])
    one = training_command("moby", 0, tmp_path / "a", shared)
    other = training_command("imagenet-100/only-mixup", 2, tmp_path / "b", shared)
    synthesis = ("--num-", "--queue-size")
    assert [flag for flag in one if flag not in other and not flag.startswith(synthesis)] == [
        "--method=moby",
        "--seed=0",
        f"--output-dir={tmp_path / 'a'}",
    ]
    assert "--recipe=imagenet-100/only-mixup" in other
    assert "--max-steps=40" in one
    assert one.index("--learning-rate=1e-3") > one.index("--learning-rate=3e-3")
    # A recipe's synthesis is what is compared, unless it is named for all.
    assert parse(other[3:]).settings.counts == {**dict.fromkeys(STRATEGIES, 0), "mixup": 128}
    assert parse(one[3:]).settings.counts == dict.fromkeys(STRATEGIES, 16)
    named = build_shared_flags(DatasetChoice(), 40, ["--num-mixup=7"])
    assert parse(training_command("imagenet-100/all", 0, tmp_path / "c", named)[3:]).settings.counts["mixup"] == 7
    assert run_name("imagenet-100/only-mixup", 2) == "imagenet-100-only-mixup-seed2"
    (tmp_path / "a").mkdir()
    assert "--resume" in training_command("moby", 0, tmp_path / "a", shared)
    assert "--resume" not in one


def test_runs_of_another_budget_never_enter_the_table(tmp_path):
    keep_to_the_plan(tmp_path, {"flags": ["--max-steps=4"]})
    keep_to_the_plan(tmp_path, {"flags": ["--max-steps=4"]})
    with pytest.raises(ValueError, match=r"then --max-steps=4; now --max-steps=5"):
        keep_to_the_plan(tmp_path, {"flags": ["--max-steps=5"]})


def test_the_same_images_elsewhere_are_the_same_plan(tmp_path):
    def keep(contents: str | None, *flags: str) -> None:
        keep_to_the_plan(tmp_path, {"flags": ["--max-steps=4", *flags], "contents": contents})

    keep("a", "--dataset=ph", "--data-dir", "archives")
    keep("a", "--dataset=/scratch/ph", "--data-dir", "/scratch/archives")
    for contents, flags in (
        ("b", ["--dataset=/scratch/ph"]),
        ("a", ["--dataset=/scratch/ph", "--momentum-start=0.9"]),
    ):
        with pytest.raises(ValueError, match="other settings"):
            keep(contents, *flags)
    # An earlier version knew the flags alone.
    (tmp_path / "ablation_plan.json").write_text('{"flags": ["--max-steps=4", "--dataset=ph"]}')
    keep("a", "--dataset=ph")
    with pytest.raises(ValueError, match="other settings"):
        keep("a", "--dataset=/scratch/ph")


def test_an_ablation_runs_keeps_what_is_finished_and_continues(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    started: list[list[str]] = []

    def in_this_process(commands: list[list[str]]) -> None:
        for command in commands:
            started.append(command)
            {"trainers.pretrain": pretrain, "trainers.linear_probe": linear_probe}[command[2]].main(command[3:])

    monkeypatch.setattr(ablate, "run_children", in_this_process)
    output = tmp_path / "ablation"
    arguments = ["ablate", "--methods", "moby,synco-v2", "--dataset", DATA, "--max-steps", "4"]
    arguments += ["--output-dir", str(output), *TINY]
    first = invoke([*arguments, "--seeds", "1"])
    assert first.exit_code == 0
    assert [command[:3] for command in started] == [[sys.executable, "-m", "trainers.pretrain"]] * 2
    before = (output / "moby-seed0" / RESULT_FILE).read_bytes()
    invoke([*arguments, "--seeds", "2"])
    assert [flag for command in started[2:] for flag in command if flag.startswith("--seed=")] == ["--seed=1"] * 2
    assert (output / "moby-seed0" / RESULT_FILE).read_bytes() == before
    data = json.loads((output / "ablation.json").read_text())
    assert [(row["method"], row["runs"]) for row in data["rows"]] == [("untrained", 2), ("moby", 2), ("synco-v2", 2)]
    assert all(0 <= row["mean"] <= 100 for row in data["rows"])
    assert "± " in (output / "ablation.md").read_text()
    assert "linear probe" not in (output / "ablation.md").read_text()
    invoke([*arguments, "--seeds", "2", "--probe", "cached"])
    assert [command[2] for command in started[4:]] == ["trainers.linear_probe"] * 4
    data = json.loads((output / "ablation.json").read_text())
    own = [
        json.loads((output / f"moby-seed{seed}/probe-cached/linear_probe_cached.json").read_text())["metrics"]
        for seed in range(2)
    ]
    expected = sum(metrics["top1_last_epoch"] for metrics in own) / 2
    assert [row["probe_mean"] is None for row in data["rows"]] == [True, False, False]
    assert data["rows"][1]["probe_mean"] == pytest.approx(expected)
    assert "linear probe top-1" in (output / "ablation.md").read_text()
    assert "not the paper's protocol" in (output / "ablation.md").read_text()
    invoke([*arguments, "--seeds", "2", "--probe", "cached"])
    assert len(started) == 8
    # Another number of neighbours is measured on the runs that are there.
    assert invoke([*arguments, "--seeds", "2", "--metric", "top1_k3"]).exit_code == 0
    assert len(started) == 8
    assert json.loads((output / "ablation.json").read_text())["metric"] == "top1_k3"


@pytest.mark.parametrize("metric", ["top1", "top1_k0", "accuracy", "top2_k10", "top1_k10_"])
def test_a_metric_that_k_nn_does_not_have_is_refused_before_any_run(tmp_path, metric):
    outcome = invoke(["ablate", "--metric", metric, "--output-dir", str(tmp_path / "x")])
    assert isinstance(outcome.exception, ValueError)
    assert f"--metric {metric} is no metric of k-NN" in str(outcome.exception)
    assert not (tmp_path / "x").exists()


def test_the_usual_neighbours_are_measured_or_the_one_that_was_asked_for():
    assert choose_neighbours("top1_k10") is None
    assert choose_neighbours("top5_k7") == [7]


def test_a_metric_that_the_data_do_not_have_is_refused_after_the_first_run():
    with pytest.raises(ValueError, match=r"moby has no metric 'top5_k10': choose one of top1_k10"):
        require_metric(FinishedRun("moby", 0, {"top1_k10": 50.0}, 1.0), "top5_k10")


def test_a_wrong_flag_leaves_no_plan(tmp_path, monkeypatch):
    def refused(commands: list[list[str]]) -> None:
        raise subprocess.CalledProcessError(1, commands[0])

    monkeypatch.setattr(ablate, "run_children", refused)
    output = tmp_path / "ablation"
    flags = ["ablate", "--methods", "moby", "--seeds", "1", "--output-dir", str(output)]
    assert invoke([*flags, "--quee-size", "3"]).exit_code == 1
    assert list(output.iterdir()) == []
    (output / "moby-seed0").mkdir()  # this time a run began before it failed
    invoke([*flags, "--queue-size", "3"])
    assert (output / PLAN_FILE).is_file()


def test_an_ablation_of_views_that_are_no_more_says_so(tmp_path):
    (tmp_path / PLAN_FILE).write_text(json.dumps({"flags": ["--augment-on=reference", "--max-steps=4"]}))
    with pytest.raises(ValueError, match=r"an earlier version began with --augment-on=reference, .* --output-dir"):
        keep_to_the_plan(tmp_path, {"flags": ["--max-steps=4"]})


def test_the_full_probe_is_the_papers_and_continues(tmp_path):
    command = build_probing_command("full", 3, tmp_path, DatasetChoice(), ["--use-cpu", "--learning-rate=1e-3"])
    assert "--cached-features" not in command
    assert "--use-cpu" in command
    assert "--learning-rate=1e-3" not in command
    assert "--resume" not in command
    (tmp_path / "probe-full").mkdir()
    assert build_probing_command("full", 3, tmp_path, DatasetChoice(), [])[-1] == "--resume"


@pytest.mark.parametrize("flags", [["--methods", " , "], ["--seeds", "0"]])
def test_an_ablation_of_nothing_is_refused(tmp_path, flags):
    outcome = invoke(["ablate", *flags, "--output-dir", str(tmp_path / "x")])
    assert isinstance(outcome.exception, ValueError)
    assert not (tmp_path / "x").exists()


SMALL_DATA = "fractals:num_classes=2,train_images_per_class=12,test_images_per_class=6"


def test_the_untrained_network_is_that_of_the_seed_and_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    model = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path / "run")
    image_processor(32).save_pretrained(tmp_path / "run")
    first = measure_untrained_run(3, tmp_path / "run", DatasetChoice(SMALL_DATA))
    assert first.arm == "untrained"
    assert 0 < first.metrics["top1_k10"] <= 100
    (tmp_path / "run" / "model.safetensors").unlink()
    assert measure_untrained_run(3, tmp_path / "run", DatasetChoice(SMALL_DATA)) == first
    assert (tmp_path / "run" / UNTRAINED_RESULT_FILE).is_file()


def test_pixels_are_the_nearest_neighbours_of_another_library(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(tmp_path / "run")
    image_processor(32).save_pretrained(tmp_path / "run")
    choice = DatasetChoice("fractals:num_classes=4,train_images_per_class=30,test_images_per_class=20,image_size=32")
    measured = measure_pixels(tmp_path, tmp_path / "run", choice, [1])
    rows = []
    for split in ("train", "test"):
        images = load_dataset(choice, split)
        pixels = np.stack([np.array(images.load_image(place)).ravel() for place in range(len(images))])
        rows += [pixels / 255, images.labels]
    cosines = [row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows[::2]]
    expected = (np.asarray(rows[1])[(cosines[1] @ cosines[0].T).argmax(1)] == rows[3]).mean()
    assert measured.arm == "pixels"
    assert measured.metrics["top1_k1"] == pytest.approx(100 * expected, abs=1e-4)
    assert 25 < measured.metrics["top1_k1"] < 100


def test_data_beside_its_name_reach_training_probe_and_neighbours(tmp_path):
    choice = DatasetChoice("fashion-mnist", data_dir="/idx", split_seed=3)
    where = {"--dataset=fashion-mnist", "--data-dir=/idx", "--split-seed=3"}
    assert where < set(build_shared_flags(choice, 5, []))
    assert where < set(build_probing_command("cached", 0, tmp_path, choice, []))


def test_a_recipes_own_settings_are_compared_where_that_is_asked_for(tmp_path):
    """The demonstration's learning rate is 3e-3, and would win over small/300's 1e-3."""
    rates = {
        defaults: parse(
            training_command("small/300", 0, tmp_path / "a", build_shared_flags(DatasetChoice(), 40, [], defaults))[3:]
        ).training.learning_rate
        for defaults in ("demo", "recipe")
    }
    assert rates == {"demo": 3e-3, "recipe": 1e-3}


def runs_of(values: dict[str, list[float]]) -> list[FinishedRun]:
    return [
        FinishedRun(arm, seed, {"top1_k10": value, "top1_k20": value / 2}, 60.0 * (seed + 1))
        for arm, found in values.items()
        for seed, value in enumerate(found)
    ]


def test_means_and_sample_standard_deviations():
    generator = np.random.default_rng(0)
    values = {"byol": generator.uniform(20, 80, 4).tolist(), "moby": generator.uniform(20, 80, 3).tolist()}
    rows = summarize_runs(runs_of(values), "top1_k10")
    for row in rows:
        own = np.array(values[row.method])
        assert row.mean == pytest.approx(own.mean())
        assert row.sd == pytest.approx(math.sqrt(((own - own.mean()) ** 2).sum() / (len(own) - 1)))
        assert (row.lowest, row.highest, row.runs) == (own.min(), own.max(), len(own))
    assert rows[0].minutes == pytest.approx(2.5)
    assert [row.mean for row in summarize_runs(runs_of(values), "top1_k20")] == pytest.approx(
        [row.mean / 2 for row in rows]
    )


def test_a_single_seed_has_no_standard_deviation():
    row = summarize_runs(runs_of({"moby": [50.0]}), "top1_k10")[0]
    assert row.sd is None
    assert "| moby | 50.0 | 50.0 | 50.0 | 1 | 1.0 |" in markdown([row], "top1_k10", "x")


def test_differences_are_those_of_pairs_with_scipys_interval():
    """The way that scipy's paired t-test takes, and a table of Student's t for five seeds."""
    generator = np.random.default_rng(11)
    first, second = generator.uniform(20, 80, (2, 5))
    runs = runs_of({"moby": first.tolist(), "synco-v2": second.tolist()})
    found = compare_pairs(runs[::-1], "top1_k10", "moby")
    assert [(each.method, each.reference, each.pairs) for each in found] == [("synco-v2", "moby", 5)]
    interval = stats.ttest_rel(second, first).confidence_interval(0.95)
    low, high = found[0].mean - found[0].half_width, found[0].mean + found[0].half_width
    assert (low, high) == pytest.approx((interval.low, interval.high))
    assert found[0].half_width == pytest.approx(2.776 * np.std(second - first, ddof=1) / math.sqrt(5), rel=1e-3)


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ([61.0, 72.0, 83.0], "+1.0 to +3.0"),  # 1, 2, 3: less than 4.3 · 1 / √3 = 2.5 points from 0
        ([61.0, 71.1, 80.9], "above"),
        ([59.0, 68.9, 79.1], "below"),
        ([61.0, 69.0, 80.5], "no difference shown"),
    ],
)
def test_pairs_show_what_scatter_between_seeds_would_hide(others, verdict):
    """The seeds of an arm are 10 points apart, the pairs about one."""
    runs = runs_of({"moby": [60.0, 70.0, 80.0], "synco-v2": others})
    said = compare_pairs(runs, "top1_k10", "moby")[0].describe()
    if verdict.startswith("+"):
        assert said.endswith("95 % interval -0.5 to +4.5 over 3 paired seeds: no difference shown.")
    else:
        assert said.endswith(f": {verdict}.")


def test_seeds_that_one_arm_lacks_are_no_pair():
    runs = runs_of({"moby": [50.0, 52.0, 54.0], "byol": [53.0, 51.0, 99.0]})
    found = compare_pairs(runs[:-1], "top1_k10", "moby")[0]
    assert (found.pairs, found.mean) == (2, 1.0)
    assert "one seed shows no scatter" in compare_pairs(runs[:4], "top1_k10", "moby")[0].describe()


def test_pixels_have_no_seed_and_are_compared_with_every_one():
    values = [60.0, 61.5, 64.0]
    runs = runs_of({"pixels": [66.0], "moby": values})
    found = compare_pairs(runs, "top1_k10", "moby")[0]
    interval = stats.ttest_1samp(66.0 - np.array(values), 0.0).confidence_interval(0.95)
    assert found.pairs == 3
    low, high = found.mean - found.half_width, found.mean + found.half_width
    assert (low, high) == pytest.approx((interval.low, interval.high))


def test_an_unknown_metric_names_the_known():
    with pytest.raises(ValueError, match=r"'top9'.*top1_k10, top1_k20"):
        summarize_runs(runs_of({"moby": [1.0]}), "top9")


def test_the_linear_probe_is_a_further_column_of_every_form(tmp_path):
    probes = {"untrained": [None, None], "moby": [61.5, 64.5], "synco-v2": [70.0, 66.0]}
    values = {"untrained": [30.0, 32.0], "moby": [55.5, 60.5], "synco-v2": [58.0, 57.0]}
    runs = [
        FinishedRun(arm, seed, {"top1_k10": value}, 60.0, probes[arm][seed])
        for arm, found in values.items()
        for seed, value in enumerate(found)
    ]
    rows = {row.method: row for row in summarize_runs(runs, "top1_k10")}
    assert (rows["untrained"].probe_mean, rows["untrained"].probe_sd) == (None, None)
    assert rows["moby"].probe_mean == 63.0
    assert rows["moby"].probe_sd == pytest.approx(np.std([61.5, 64.5], ddof=1))
    paths = write_tables(tmp_path, runs, "top1_k10", {"probe": "cached features (not the paper's protocol)"}, "moby")
    text = paths[0].read_text()
    assert "| moby | 58.0 ± 3.5 | 55.5 | 60.5 | 2 | 1.0 | 63.0 ± 2.1 |" in text
    assert "| 2 | 1.0 | – |" in text
    assert "not the paper's protocol" in text
    data = json.loads(paths[1].read_text())
    assert [row["probe_mean"] for row in data["rows"]] == [None, 63.0, 68.0]
    assert [run["probe"] for run in data["runs"]] == [None, None, 61.5, 64.5, 70.0, 66.0]
    table = list(csv.DictReader(paths[2].read_text().splitlines()))
    assert [row["probe_mean"] for row in table] == ["", "63.0", "68.0"]
    drawn = figure(runs, list(rows.values()), "top1_k10").axes[0]
    heights = sorted(bar.get_height() for bar in drawn.patches)
    assert heights == sorted([31.0, 58.0, 57.5, 63.0, 68.0])
    assert [entry.get_text() for entry in drawn.get_legend().get_texts()] == ["top1_k10", "linear probe top-1"]


def test_all_forms_say_the_same(tmp_path):
    runs = runs_of({"untrained": [30.0, 32.0], "moby": [55.5, 60.5], "synco-v2": [58.0, 57.0]})
    paths = write_tables(tmp_path, runs, "top1_k10", {"max_steps": 7}, "moby")
    assert [path.name for path in paths] == ["ablation.md", "ablation.json", "ablation.csv", "ablation.png"]
    data = json.loads(paths[1].read_text())
    table = list(csv.DictReader(paths[2].read_text().splitlines()))
    assert [row["method"] for row in data["rows"]] == [row["method"] for row in table]
    assert [row["mean"] for row in data["rows"]] == [float(row["mean"]) for row in table]
    assert "| moby | 58.0 ± 3.5 | 55.5 | 60.5 | 2 | 1.5 |" in paths[0].read_text()
    assert "max_steps=7" in paths[0].read_text()
    assert len(data["runs"]) == 6
    assert split_at_commas(summarize_runs(runs, "top1_k10")) == paths[2].read_text()
    with Image.open(paths[3]) as image:
        assert image.format == "PNG"
