import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.utils.data import Dataset

from synco_hub.models import SynCoConfig
from trainers.pretrain import main
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer
from trainers.recipe import RECIPES, choose_fidelity_settings, list_recipes, parse, read_recipe, to_flags
from trainers.runs.checkpoints import IDENTITY
from trainers.schedules import learning_rate_factor
from trainers.synthetic_negatives import SyntheticNegatives


def test_an_unknown_flag_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"--quee-size is not a flag.*'--queue-size'"):
        parse(["--output-dir", str(tmp_path), "--use-cpu", "--quee-size", "3"])


def test_flags_of_k_nn_without_k_nn_are_refused(tmp_path):
    base = ["--output-dir", str(tmp_path), "--use-cpu"]
    for flags, text in (
        (["--knn-images", "50"], "--knn-images is for --knn-every-epochs"),
        (["--knn-dataset", "cifar10"], "--knn-dataset is for --knn-every-epochs"),
        (["--knn-data-dir", "here"], "--knn-data-dir here: say by --knn-dataset"),
        (["--knn-every-epochs", "1", "--knn-images", "0"], "--knn-images 0: give at least 1"),
        (["--knn-every-epochs", "0"], "--knn-every-epochs 0: give more than 0"),
        (["--images-per-epoch", "9"], "--images-per-epoch is for --streaming"),
    ):
        with pytest.raises(ValueError, match=text):
            parse([*base, *flags])
    run = parse([*base, "--knn-every-epochs", "0.5", "--knn-images", "50", "--knn-dataset", "cifar10"])
    assert (run.training.knn_every_epochs, run.data.knn_images, run.data.knn_dataset) == (0.5, 50, "cifar10")


def test_what_is_recorded_tells_runs_apart_and_says_how_they_were_trained(tmp_path):
    flags = ["--output-dir", str(tmp_path), "--use-cpu", "--backbone", "vit-nano", "--seed", "7"]
    run = parse([*flags, "--gradient-accumulation-steps", "3", "--fidelity", "authors-code", "--hue", "0"])
    recorded = run.recorded(SynCoConfig(backbone="vit-nano"), {"name": "pictures"})
    assert set(IDENTITY) <= set(recorded)
    assert (recorded["seed"], recorded["data"], recorded["backbone"]["embed_dim"]) == (7, {"name": "pictures"}, 96)
    assert recorded["training"]["global_batch_size"] == 3 * 128
    assert recorded["training"]["fidelity"] == "authors-code"
    # How k-NN is measured on the way does not make it another run.
    measured = parse([*flags, "--knn-every-epochs", "1"]).recorded(SynCoConfig(backbone="vit-nano"), {})
    plain = parse(flags).recorded(SynCoConfig(backbone="vit-nano"), {})
    assert measured == plain


def test_what_is_given_is_not_beaten_by_a_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text("learning_rate: 0.5\nmax_steps: 9\nnum_train_epochs: 7\n")
    base = ["--output-dir", str(tmp_path), "--use-cpu", "--recipe", str(tmp_path / "mine.yaml")]
    as_written = parse(base).training
    assert (as_written.learning_rate, as_written.max_steps) == (0.5, 9)
    given = parse([*base, "--base-learning-rate", "0.1", "--num-train-epochs", "3"]).training
    assert given.learning_rate == pytest.approx(0.1 * given.global_batch_size / 512)
    assert (given.max_steps, given.num_train_epochs) == (-1, 3)
    both = parse([*base, "--base-learning-rate", "0.1", "--learning-rate", "0.2"]).training
    assert both.learning_rate == 0.2


def test_a_recipe_becomes_flags_in_order(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("method: moby\nnum-heads: [2, 4]\nlearning_rate: 1e-3\n")
    flags = read_recipe(str(file), ["method", "num_heads", "learning_rate"])
    assert flags == ["--method", "moby", "--num_heads", "2", "4", "--learning_rate", "1e-3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("metod: moby\n", "Did you mean 'method'"), ("- a\n- b\n", "is a list"), ("", "is a NoneType")],
)
def test_a_bad_recipe_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(str(file), ["method"])


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="synco-v2-deit-s"):
        read_recipe("synco-v2-deit", ["method"])


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
WHOLE = [name for name in list_recipes() if "/" not in name]
VARIANTS = [name for name in list_recipes() if name.startswith("imagenet-100/")]


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
    with pytest.raises(ValueError, match=r"does not exist.*such as fashion-mnist/synco-v2"):
        read_recipe(name, ["method"])


def test_flags_given_by_the_user_win_over_the_recipe(tmp_path):
    run = parse(["--backbone", "swin-t", "--recipe", "byol-deit-s", "--output-dir", str(tmp_path), "--use-cpu"])
    assert run.backbone.backbone == "swin-t"
    assert run.settings.method == "byol"
    assert run.training.gradient_accumulation_steps == 8
    assert run.training.global_batch_size == 1024


def test_settings_become_flags_and_an_unknown_one_names_the_nearest():
    assert to_flags({"num-heads": [2, 4], "bf16": True}, ["num_heads", "bf16"], "x") == [
        "--num_heads", "2", "4", "--bf16", "True",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"x has an unknown key 'num_head'.*'num_heads'"):
        to_flags({"num_head": 2}, ["num_heads"], "x")


SMALL_OBJECTIVE = {"queue_size": 8, "num_hard_negatives": 2, "projection_hidden_dim": 8, "projection_dim": 4}


def run(tmp_path, *flags: str):
    return parse([*flags, "--output-dir", str(tmp_path), "--use-cpu"])


def test_the_paper_sets_nothing():
    assert choose_fidelity_settings("paper", "synco-v2", "deit-s") == {}


def test_the_authors_code_as_a_group(tmp_path):
    theirs = run(tmp_path, "--fidelity", "authors-code")
    assert list(theirs.settings.counts.values()) == [128, 128, 128, 64, 64, 64]
    assert sum(theirs.settings.counts.values()) == 576
    assert theirs.settings.noise_std == 0.1
    assert theirs.settings.num_hard_negatives == 256
    assert theirs.backbone.num_heads == [12]
    training = theirs.training
    assert (training.base_learning_rate, training.weight_decay, training.max_grad_norm) == (1e-3, 0.05, 5.0)
    assert training.count_warmup_steps(total_steps=3000, steps_per_epoch=10) == 50
    assert theirs.fidelity == "authors-code"


class Pictures(Dataset):
    """So many of one picture."""

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return Image.new("RGB", (32, 32))


@pytest.mark.parametrize(
    ("epochs", "last_step"), [(100, 250_199), (200, 252_700), (300, 252_700), (400, 252_700), (800, 252_700)]
)
def test_the_authors_window_does_not_move_with_the_length_of_the_run(tmp_path, epochs, last_step):
    # Their class, asked at the borders with 2,502 steps an epoch.
    args = run(tmp_path, "--fidelity", "authors-code", "--num-train-epochs", str(epochs)).training
    model = SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining=SMALL_OBJECTIVE))
    trainer = SynCoTrainer(model, args, Pictures(2502 * args.per_device_train_batch_size))
    trainer.state.max_steps = trainer.total_steps
    assert (trainer.synthesis_window[0], trainer.synthesis_window[-1]) == (75_059, last_step)


def test_a_named_end_of_the_window_wins_over_the_authors(tmp_path):
    named = run(tmp_path, "--fidelity", "authors-code", "--synthetic-cooldown-epochs", "7").training
    assert (named.synthetic_cooldown_epochs, named.synthetic_last_epoch) == (7, None)
    with pytest.raises(ValueError, match="--synthetic-last-epoch 9 and --synthetic-cooldown-epochs 7 both say"):
        run(tmp_path, "--synthetic-last-epoch", "9", "--synthetic-cooldown-epochs", "7")
    with pytest.raises(ValueError, match=r"--learning-rate-curve 'papr' is unknown.*'paper'"):
        run(tmp_path, "--learning-rate-curve", "papr")


@pytest.mark.parametrize("name", list_recipes())
def test_what_a_recipe_names_wins_over_the_fidelity_and_the_rest_is_the_fidelitys(name, tmp_path):
    file, _, variant = name.partition("/")
    named = yaml.safe_load((RECIPES / f"{file}.yaml").read_text())
    if variant:
        named = {**named["base"], **named["variants"][variant]}
    papers = named.pop("paper", {})
    theirs = run(tmp_path, "--recipe", name, "--fidelity", "authors-code")
    chosen = {**vars(theirs.settings), **vars(theirs.backbone), **vars(theirs.training), **vars(theirs.views)}
    expected = {**choose_fidelity_settings("authors-code", named["method"], named["backbone"]), **named}
    if "synthetic_cooldown_epochs" in named:
        del expected["synthetic_last_epoch"]
    if "num_heads" in expected:
        expected["num_heads"] = [expected["num_heads"]]
    assert {key: chosen[key] for key in expected} == expected
    # What the paper alone has is the paper's, and only for methods whose authors have another number.
    ours = vars(run(tmp_path, "--recipe", name).training)
    assert {key: ours[key] for key in papers} == papers
    assert set(papers) <= set(choose_fidelity_settings("authors-code", named["method"], named["backbone"]))


def test_a_run_of_the_earlier_group_goes_on_with_what_it_had(tmp_path):
    # Version 0.1: the group won over the recipe, its window was of 300 epochs, its rate the paper's curve.
    training = {"fidelity": "authors-code", "synthetic_warmup_epochs": 30.0, "synthetic_cooldown_epochs": 199.0}
    file = tmp_path / "pretraining_settings.json"
    file.write_text(json.dumps({"training": training}))
    flags = ["--recipe", "imagenet-100/without-noise-injection", "--fidelity", "authors-code"]
    for _ in range(2):
        resumed = run(tmp_path, *flags, "--resume")
        assert list(resumed.settings.counts.values()) == [128, 128, 128, 64, 64, 64]
        args = resumed.training
        assert (args.synthetic_warmup_epochs, args.synthetic_cooldown_epochs, args.synthetic_last_epoch) == (
            30, 199, None
        )  # fmt: skip
        assert args.learning_rate_curve == "paper"
        file.write_text(json.dumps(resumed.recorded(SynCoConfig("vit-nano"), {}), default=str))
    # A new run, and one that was begun by today's group, have today's.
    for resume in ([], ["--resume"]):
        begun = run(tmp_path / "new", *flags, *resume)
        assert (begun.settings.num_noise_injection, begun.training.synthetic_last_epoch) == (0, 100)
        (tmp_path / "new").mkdir(exist_ok=True)
        settings = json.dumps(begun.recorded(SynCoConfig("vit-nano"), {}), default=str)
        (tmp_path / "new" / "pretraining_settings.json").write_text(settings)


def test_the_rate_of_the_authors_code_is_timms_as_they_use_it(tmp_path):
    # MoBY's code: all three rates scaled by the batch, and `step_update(step)` after the optimizer's step.
    steps_per_epoch, epochs, batch = 4, 20, 64
    flags = ["--num-train-epochs", str(epochs), "--per-device-train-batch-size", str(batch)]
    args = run(tmp_path, "--fidelity", "authors-code", *flags).training
    model = SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining=SMALL_OBJECTIVE))
    trainer = SynCoTrainer(model, args, Pictures(steps_per_epoch * batch))
    scale, total = batch / 512, steps_per_epoch * epochs
    reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3 * scale)
    theirs = CosineLRScheduler(
        reference, t_initial=total, lr_min=5e-6 * scale, warmup_lr_init=5e-7 * scale, warmup_t=5 * steps_per_epoch,
        cycle_limit=1, t_in_epochs=False,
    )  # fmt: skip
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    ours = trainer.create_scheduler(total, optimizer)
    for step in range(total):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12), step
        reference.step()
        theirs.step_update(step)
        optimizer.step()
        ours.step()


def test_byol_of_the_authors_code_wins_over_the_recipe_and_the_user_over_both(tmp_path):
    theirs = run(tmp_path, "--fidelity", "authors-code", "--recipe", "byol-swin-t", "--weight-decay", "0.2")
    assert theirs.training.gradient_accumulation_steps == 1
    assert theirs.training.base_learning_rate == 2e-4
    assert theirs.training.momentum_start == 0.996
    assert theirs.settings.online_drop_path_rate == 0.2
    assert theirs.training.weight_decay == 0.2
    assert theirs.backbone.num_heads is None


@pytest.mark.parametrize(("method", "backbone"), [("synco-v2", "deit-s"), ("byol", "swin-t")])
def test_the_page_of_differences_names_every_number_of_the_group(method, backbone):
    text = (RECIPES.parents[1] / "docs" / "understand-differences.md").read_text()
    section = text.partition("# Where paper and authors' code differ")[2].partition("\n## ")[0]
    theirs = {row.split("|")[3] for row in section.splitlines() if row.count("|") == 4}
    for name, value in choose_fidelity_settings("authors-code", method, backbone).items():
        if isinstance(value, float | int) and not isinstance(value, bool) and value != 1:
            ways = {f"{value:g}", re.sub(r"\.?0*e-0?", "e-", f"{value:e}")}
            assert any(
                re.search(rf"(?<![\d.]){re.escape(way)}(?![\d.]\d)", cell) for way in ways for cell in theirs
            ), name


def test_the_paper_is_the_default(tmp_path):
    ours = run(tmp_path, "--method", "synco-v2")
    assert sum(ours.settings.counts.values()) == 768
    assert ours.training.max_grad_norm == 0.0
    assert ours.backbone.num_heads is None
    assert ours.fidelity == "paper"


def test_an_unknown_fidelity_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="authors-code"):
        run(tmp_path, "--fidelity", "author-code")


def test_learning_rates_of_the_ends():
    start, end = 5e-7 / 1e-3, 5e-6 / 1e-3
    rates = [1e-3 * learning_rate_factor(step, 300, 5, start, end) for step in range(301)]
    assert rates[0] == pytest.approx(5e-7)
    assert rates[5] == pytest.approx(1e-3)
    assert rates[300] == pytest.approx(5e-6)
    assert max(rates) == rates[5]
    assert rates[1] == pytest.approx(5e-7 + (1e-3 - 5e-7) / 5)


@pytest.mark.parametrize("fidelity", ["paper", "authors-code"])
def test_weight_decay_of_tokens_and_tables(tmp_path, fidelity):
    args = run(tmp_path, "--fidelity", fidelity, "--per-device-train-batch-size", "2").training
    model = SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining=SMALL_OBJECTIVE))
    trainer = SynCoTrainer(model, args, [{}] * 4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {
        names[id(parameter)]
        for group in trainer.create_optimizer().param_groups
        for parameter in group["params"]
        if group["weight_decay"] > 0
    }
    assert ("synco.backbone.cls_token" in decayed) == (fidelity == "authors-code")
    assert not any(isinstance(module, nn.LayerNorm) and f"{name}.weight" in decayed
                   for name, module in model.named_modules())  # fmt: skip
    assert torch.is_tensor(model.synco.backbone.cls_token)
