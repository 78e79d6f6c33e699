"""What rarely teaches a network anything is said before the first step, in a line each, and nothing else is."""

import dataclasses
import json
import logging

import pytest
import torch
from PIL import Image

from trainers.plausibility import SMALL_RECIPES, PlannedRun, choose_small_recipe, find_misfits, plan_run
from trainers.pretrain import main
from trainers.pretraining_run import build_config
from trainers.recipe import list_recipes, parse
from trainers.schedules import synthetic_steps
from trainers.settings import PretrainingSettings

# The paper's run: DeiT-S, ImageNet, 300 epochs of 2,502 steps.
PAPER = PlannedRun(
    settings=PretrainingSettings(),
    width=384,
    num_images=1_281_167,
    batch=512,
    steps=750_600,
    steps_per_epoch=2502,
    peak=1.5e-4,
    base=1.5e-4,
    adam=True,
    warmup_steps=100_080,
    window=range(75_060, 500_400),
)
FEW = dataclasses.replace(
    PAPER, width=96, num_images=300, batch=64, steps=258, steps_per_epoch=4, peak=1.9e-5, warmup_steps=34,
    window=range(26, 172),
)  # fmt: skip


def change(run: PlannedRun, **values: object) -> PlannedRun:
    settings = {name: values.pop(name) for name in list(values) if hasattr(run.settings, name)}
    return dataclasses.replace(run, settings=dataclasses.replace(run.settings, **settings), **values)  # type: ignore[arg-type]


def test_nothing_is_said_of_the_papers_run_nor_of_one_on_a_single_gpu_nor_of_the_demonstration():
    assert find_misfits(PAPER) == []
    assert find_misfits(change(PAPER, batch=128, peak=3.75e-5, steps=1_000_800)) == []
    demonstration = change(
        PAPER, width=96, num_images=1000, batch=64, steps=1000, steps_per_epoch=15, peak=3e-3, base=None,
        warmup_steps=133, window=range(100, 667), queue_size=512, num_hard_negatives=32, projection_hidden_dim=512,
        **{f"num_{kind}": 16 for kind in PAPER.settings.counts},
    )  # fmt: skip
    assert find_misfits(demonstration) == []


def test_the_defaults_on_three_hundred_images_get_a_line_each_with_the_recipe():
    queue, heads, rate = find_misfits(FEW)
    assert "300 images, so each is in the queue about 13.7 times" in queue
    assert "give at most 256" in queue
    assert "--projection-hidden-dim 4096" in heads
    assert "give about 512" in heads
    assert "peaks at 1.9e-05, --base-learning-rate 0.00015 × 64 images a step / 512" in rate
    # A linear warm-up and a cosine, both to the peak: half of it on average.
    assert "over 258 steps it moves a weight by 0.0025 at most" in rate
    assert all(line.endswith("--recipe small/300.") and "\n" not in line for line in (queue, heads, rate))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queue_size": 1_281_168}, "each is in the queue about 1.0 times"),
        ({"queue_size": 511, "method": "moby"}, "--queue-size 511: a step puts the keys of 512 images into it"),
        ({"steps": 7, "window": range(1, 5), "warmup_steps": 1}, "random vectors stay in the queue to its end"),
        ({"num_hard_negatives": 2049}, "--num-hard-negatives 2049, 768 synthetic negatives, --queue-size 4096"),
        ({"num_mixup": 5000}, "--num-hard-negatives 256, 5640 synthetic negatives"),
        ({"width": 200}, "--projection-hidden-dim 4096: the network's feature has 200 numbers"),
        ({"peak": 1e-8, "base": None}, "the learning rate peaks at 1e-08: over 750600 steps"),
        ({"warmup_steps": 750_600}, "The warm-up of 750600 steps is as long as the run of 750600"),
        ({"window": range(0)}, "The synthesis window is empty (750600 steps in all)"),
        ({"last_epoch": 300.0}, "--synthetic-last-epoch 300 lies behind the run of 300 epochs"),
        ({f"num_{kind}": 0 for kind in PAPER.settings.counts}, "All counts of synthetic negatives are 0"),
    ],
)
def test_each_setting_that_does_not_fit_is_said_alone_or_with_what_follows_from_it(changes, said):
    lines = find_misfits(change(PAPER, **changes))
    assert sum(said in line for line in lines) == 1
    assert len(lines) == (2 if "steps" in changes else 1)  # so few steps have a short way too


def test_methods_are_asked_only_what_concerns_them():
    assert [line for line in find_misfits(change(FEW, method="byol")) if "queue" in line or "negative" in line] == []
    moby = find_misfits(change(FEW, method="moby", window=range(0), queue_size=256))
    assert [line for line in moby if "synthe" in line] == []
    # How far a step of SGD moves a weight, its rate does not tell.
    assert len(find_misfits(FEW)) == 1 + len(find_misfits(change(FEW, adam=False)))


@pytest.mark.parametrize(
    ("images", "recipe"),
    [(64, "small/300"), (999, "small/300"), (3000, "small/3000"), (60_000, "small/30000"), (126_689, None)],
)
def test_the_recipe_that_is_named_is_that_of_the_size_and_there_is_one(images, recipe):
    assert choose_small_recipe(images) == recipe
    assert set(SMALL_RECIPES) <= set(list_recipes())


@pytest.mark.parametrize("name", list(SMALL_RECIPES))
def test_recipes_for_small_data_fit_data_of_their_size(name, tmp_path):
    num_images = int(name.split("/")[1])
    run = parse(["--recipe", name, "--output-dir", str(tmp_path), "--use-cpu"])
    assert choose_small_recipe(num_images) == name
    assert run.settings.queue_size <= num_images
    args = run.training
    assert args.per_device_train_batch_size <= num_images // 4
    steps_per_epoch = num_images // args.per_device_train_batch_size
    steps = round(args.num_train_epochs * steps_per_epoch)
    config, window = build_config(run.backbone, run.settings), synthetic_steps(steps, steps_per_epoch)
    planned = plan_run(args, config, num_images, steps, steps_per_epoch, window)
    assert find_misfits(planned) == []
    assert steps <= 3000  # a quarter of an hour on a CPU


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_smallest_recipe_teaches_the_network_something(tmp_path, monkeypatch):
    # Three hundred drawn pictures of ten classes; by `tests/benchmarks/small_data.py` on any folder.
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    data = "fractals:train_images_per_class=30,test_images_per_class=40"
    flags = ["--use-cpu", "--dataloader-num-workers", "0", "--save-strategy", "no", "--disable-tqdm", "true"]
    small = ["--image-size", "32", "--patch-size", "8", "--knn-every-epochs", "1000"]
    main(["--recipe", "small/300", *flags, *small, "--dataset", data, "--output-dir", str(tmp_path / "run")])
    before, after = json.loads((tmp_path / "run" / "pretraining_summary.json").read_text())["knn"]
    assert after["knn_top1_k10"] > before["knn_top1_k10"] + 3


def test_a_run_says_it_before_its_first_step_and_trains(tmp_path, caplog):
    generator = torch.Generator().manual_seed(0)
    for index in range(9):
        pixels = torch.randint(0, 256, (36, 40, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    flags = "--backbone vit-nano --depth 1 --per-device-train-batch-size 4 --max-steps 2 --warmup-epochs 9 --use-cpu"
    quiet = "--dataloader-num-workers 0 --save-strategy no --disable-tqdm true --logging-steps 1"
    with caplog.at_level(logging.WARNING):
        main([*flags.split(), *quiet.split(), "--dataset", str(tmp_path), "--output-dir", str(tmp_path / "run")])
    for said in (
        "--queue-size 4096: the data set has 9 images",
        "--projection-hidden-dim 4096",
        "the learning rate peaks at 1.2e-06",
        "The warm-up of 18 steps is as long as the run of 2",
    ):
        assert caplog.text.count(said) == 1
    assert (tmp_path / "run" / "model.safetensors").is_file()
