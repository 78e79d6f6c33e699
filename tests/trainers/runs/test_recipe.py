import json
import math
import re
from pathlib import Path

import pytest
from PIL import Image

from trainers.pretrain import main
from trainers.pretraining_flags import parse
from trainers.runs.recipe import RECIPES, as_flags, recipe_flags, recipe_names
from trainers.synthetic_negatives import SyntheticNegatives


def test_a_recipe_becomes_flags_in_order(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("method: moby\nnum-heads: [2, 4]\nlearning_rate: 1e-3\n")
    flags = recipe_flags(str(file), ["method", "num_heads", "learning_rate"])
    assert flags == ["--method", "moby", "--num_heads", "2", "4", "--learning_rate", "1e-3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("metod: moby\n", "Did you mean 'method'"), ("- a\n- b\n", "is a list"), ("", "is a NoneType")],
)
def test_a_bad_recipe_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        recipe_flags(str(file), ["method"])


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="synco-v2-deit-s"):
        recipe_flags("synco-v2-deit", ["method"])


# A network of the recipe's kind that a CPU trains in no time.
SMALL_BACKBONE = {
    "deit": "--depth 1 --embed-dim 48 --image-size 32 --patch-size 16",
    "vit": "--depth 1 --embed-dim 48 --num-heads 4 --image-size 32 --patch-size 16",
    "swin": "--depth 1 1 1 1 --embed-dim 16 --num-heads 1 1 2 2 --image-size 64 --window-size 2 --patch-size 2",
}
SMALL_RUN = (
    "--queue-size 64 --num-hard-negatives 16 --projection-hidden-dim 16 --projection-dim 8 --max-steps 1 "
    "--per-device-train-batch-size 2 --gradient-accumulation-steps 1 --dataloader-num-workers 0 --use-cpu "
    "--save-strategy no --logging-steps 1 --synthetic-warmup-epochs 0 --synthetic-cooldown-epochs 0 "
    "--disable-tqdm true"
).split()
WHOLE = [name for name in recipe_names() if "/" not in name]
VARIANTS = [name for name in recipe_names() if "/" in name]


def start(name: str, output: Path, photographs: Path, *flags: str) -> dict[str, float]:
    kind = "deit" if "/" in name else name.split("-")[-2]
    small = SMALL_BACKBONE[kind].split()
    if kind == "deit" and "--fidelity" in flags:
        small[3] = "96"
    main(["--recipe", name, *SMALL_RUN, *small, "--dataset", str(photographs), "--output-dir", str(output), *flags])
    log: dict[str, float] = json.loads((output / "pretraining_summary.json").read_text())["last_log"]
    return log


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for index in range(10):
        path = root / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (index * 20, 90, 255 - index * 20)).save(path)
    return root


@pytest.mark.parametrize("name", WHOLE)
def test_every_recipe_starts_and_says_what_its_name_says(name, tmp_path, photographs, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    run = parse(["--recipe", name, "--output-dir", str(tmp_path), "--use-cpu"])
    method, backbone = name.rsplit("-", 2)[0], "-".join(name.rsplit("-", 2)[1:])
    assert (run.settings.method, run.backbone.backbone) == (method, backbone)
    assert run.training.num_train_epochs == 300
    log = start(name, tmp_path / "run", photographs)
    assert math.isfinite(log["loss"])
    assert log["num_synthetic"] == (768 if method == "synco-v2" else 0)


@pytest.mark.parametrize("name", WHOLE)
def test_recipes_reach_the_papers_global_batch_on_the_gpus_they_name(name, tmp_path):
    text = (RECIPES / f"{name}.yaml").read_text()
    processes = int(re.findall(r"--num-processes (\d+)", text)[0])
    run = parse(["--recipe", name, "--output-dir", str(tmp_path), "--use-cpu"])
    whole = run.training.global_batch_size * processes
    assert whole == (4096 if run.settings.method == "byol" else 1024 if "vit-b" in name else 512)


def test_the_ablation_set_covers_what_the_paper_leaves_open(tmp_path):
    runs = {name: parse(["--recipe", name, "--output-dir", str(tmp_path), "--use-cpu"]) for name in VARIANTS}
    assert all(run.training.num_train_epochs == 100 for run in runs.values())
    synthetic = {name.split("/")[1]: run.settings.counts for name, run in runs.items()}
    kinds = list(SyntheticNegatives().config.counts)
    for kind in kinds:
        dashed = kind.replace("_", "-")
        assert synthetic[f"only-{dashed}"] == {other: 128 if other == kind else 0 for other in kinds}
        assert synthetic[f"without-{dashed}"] == {other: 0 if other == kind else 128 for other in kinds}
    varied = {"num_hard_negatives", "interpolation_max", "extrapolation_max", "mixup_max", "noise_std"}
    varied |= {"gradient_step", "adversarial_step"}
    for name in varied:
        assert len({getattr(run.settings, name) for run in runs.values()}) > 1, name
    assert runs["imagenet-100/no-cool-down"].training.synthetic_cooldown_epochs == 0
    different = {json.dumps([vars(run.settings), run.training.synthetic_warmup_epochs,
                             run.training.synthetic_cooldown_epochs]) for run in runs.values()}  # fmt: skip
    assert len(different) == len(VARIANTS)


@pytest.mark.parametrize("name", ["only-mixup", "count-32", "no-cool-down"])
def test_variants_start(name, tmp_path, photographs, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    log = start(f"imagenet-100/{name}", tmp_path / "run", photographs)
    assert log["num_synthetic"] == {"only-mixup": 128, "count-32": 192, "no-cool-down": 768}[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_starts(name, tmp_path, photographs, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    run = parse(["--recipe", name, "--output-dir", str(tmp_path), "--use-cpu"])
    queue = str(max(64, run.settings.num_hard_negatives))
    hard = str(run.settings.num_hard_negatives)
    log = start(name, tmp_path / "run", photographs, "--queue-size", queue, "--num-hard-negatives", hard)
    assert math.isfinite(log["loss"])


@pytest.mark.parametrize("name", ["imagenet-100/only-mixups", "imagenet-100", "byol-deit-s/all"])
def test_a_variant_that_is_none_names_the_nearest(name):
    with pytest.raises(ValueError, match=r"does not exist.*imagenet-100/all"):
        recipe_flags(name, ["method"])


def test_flags_given_by_the_user_win_over_the_recipe(tmp_path):
    run = parse(["--backbone", "swin-t", "--recipe", "byol-deit-s", "--output-dir", str(tmp_path), "--use-cpu"])
    assert run.backbone.backbone == "swin-t"
    assert run.settings.method == "byol"
    assert run.training.gradient_accumulation_steps == 8
    assert run.training.global_batch_size == 1024


def test_settings_become_flags_and_an_unknown_one_names_the_nearest():
    assert as_flags({"num-heads": [2, 4], "bf16": True}, ["num_heads", "bf16"], "x") == [
        "--num_heads", "2", "4", "--bf16", "True",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"x has an unknown key 'num_head'.*'num_heads'"):
        as_flags({"num_head": 2}, ["num_heads"], "x")
