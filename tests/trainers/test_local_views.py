"""Small views beside the two (multi-crop), from the draw of a crop to the gradients of a step."""

import copy
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from pillow_views import apply_view
from scipy import stats
from torch.nn import functional as F

from synco_hub.data import TwoViewDataset, TwoViewParameters, load_dataset
from synco_hub.data.samplers import derive_random_key
from synco_hub.data.views.dataset import TwoViewCollator, count_local_views, join_batches
from synco_hub.data.views.device_views import finish_local_views, finish_views
from synco_hub.data.views.draws import draw_view, draw_views
from synco_hub.data.views.transform import make_two_view_transform
from synco_hub.models import SynCoConfig
from trainers.pretrain import main
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_model import SynCoForPreTraining, normalize
from trainers.pretraining_trainer import SynCoTrainer
from trainers.recipe import list_recipes, parse
from trainers.step_time import describe_step_cost

SMALL = {"queue_size": 32, "num_hard_negatives": 8, "projection_hidden_dim": 24, "projection_dim": 16}
FRACTALS = "fractals:num_classes=2,train_images_per_class=6,test_images_per_class=1,image_size=48"
LOCAL = TwoViewParameters(local_crops=3, local_size=16, local_scale=(0.1, 0.3))
TINY = (
    "--backbone vit-nano --depth 1 --projection-hidden-dim 16 --projection-dim 8 --use-cpu --queue-size 32 "
    f"--num-hard-negatives 4 --dataset {FRACTALS} --disable-tqdm true --per-device-train-batch-size 4 "
    "--dataloader-num-workers 0 --max-steps 2 --logging-steps 1 --save-strategy no"
).split()


def build(method: str = "synco-v2", backbone: str = "vit-nano", **settings: object) -> SynCoForPreTraining:
    torch.manual_seed(3)
    config = SynCoConfig(backbone=backbone, pretraining={**SMALL, "method": method, **settings})
    return SynCoForPreTraining(config).train()


def draw_batch(number: int = 3, side: int = 16, batch: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = [(batch, 3, 32, 32), (batch, 3, 32, 32), (batch, number, 3, side, side)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


# What is drawn


def test_small_views_change_nothing_of_the_two_and_differ_from_each_other():
    both, local = draw_views(LOCAL, 50, 40, 11)
    assert both == draw_views(TwoViewParameters(), 50, 40, 11)[0]
    assert len({(draw.top, draw.left, draw.height, draw.width) for draw in [*both, *local]}) == 5


def test_areas_of_small_views_are_uniform_over_their_scale():
    """By Kolmogorov and Smirnov, on an image so large that whole pixels do not matter; none reaches out of it."""
    parameters = TwoViewParameters(local_crops=2, local_scale=(0.05, 0.25))
    draws = [draw for key in range(400) for draw in draw_views(parameters, 3000, 3000, key)[1]]
    shares = [draw.height * draw.width / 3000**2 for draw in draws]
    assert stats.kstest(shares, stats.uniform(0.05, 0.2).cdf).pvalue > 1e-3
    assert all(draw.top + draw.height <= 3000 and draw.left + draw.width <= 3000 for draw in draws)


def test_small_views_are_distorted_as_view_1_and_view_2_in_turns():
    certain = TwoViewParameters(
        local_crops=4, gaussian_blur_probability=(1.0, 0.0), solarization_probability=(0.0, 1.0)
    )
    _, local = draw_views(certain, 40, 40, 5)
    assert [draw.blur_sigma is not None for draw in local] == [True, False, True, False]
    assert [draw.solarize for draw in local] == [False, True, False, True]


def test_small_views_are_those_of_pillow():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8))
    made = make_two_view_transform("worker", 32, LOCAL)(np.array(picture), 99)
    assert [tuple(each.shape) for each in made] == [(3, 32, 32), (3, 32, 32), (3, 3, 16, 16)]
    for number, view in enumerate(made[2]):
        expected = apply_view(picture, draw_view(LOCAL, 2 + number, 70, 60, 99), 16, LOCAL)
        assert (view - expected).abs().mean() < 0.01 / min(LOCAL.std)  # a hundredth of the range of a pixel


@pytest.mark.parametrize("place", ["worker", "device"])
def test_batches_hold_what_the_transform_makes_and_join(place):
    transform, images = make_two_view_transform(place, 32, LOCAL), load_dataset(FRACTALS)
    views, plain = (TwoViewDataset(images, each, seed=2) for each in (transform, make_two_view_transform(place, 32)))
    samples = [views[1, index] for index in range(6)]
    batch = TwoViewCollator()(samples)
    without = TwoViewCollator()([plain[1, index] for index in range(6)])
    assert all(torch.equal(batch[name], without[name]) for name in without)
    joined = join_batches([TwoViewCollator()(samples[:2]), TwoViewCollator()(samples[2:])])
    assert joined.keys() == batch.keys()
    assert all(torch.equal(batch[name], joined[name]) for name in batch)
    half = transform.device_half() if place == "device" else None
    assert [view.shape for view in finish_views(half, batch)] == [(6, 3, 32, 32)] * 2
    local = finish_local_views(half, batch)
    assert local.shape == (6, 3, 3, 16, 16)
    key = derive_random_key(2, 1, 4)
    expected = make_two_view_transform("worker", 32, LOCAL)(images.load_pixels(4), key)[2]
    assert (local[4] - expected).abs().mean() < (1e-6 if place == "worker" else 0.1)
    assert finish_local_views(half, without) is None
    assert (count_local_views(views), count_local_views(plain)) == (3, 0)


# What is learned


def losses_by_loop(
    model: SynCoForPreTraining, view_1: torch.Tensor, view_2: torch.Tensor, local: torch.Tensor, active: bool
) -> torch.Tensor:
    """Every view by itself through the networks, every pair of query and key by itself; the mean of all, twice."""
    settings = model.settings

    def query(view: torch.Tensor) -> torch.Tensor:
        features = model.synco(view, interpolate_pos_encoding=True).pooler_output
        return F.normalize(model.predictor(model.projector(features)), dim=1)

    with torch.no_grad():
        keys = [
            F.normalize(model.target_projector(model.target(view).pooler_output), dim=1) for view in (view_1, view_2)
        ]
    queues = [model.queue_1.keys, model.queue_2.keys] if model.objective.has_queue else [None, None]

    def pair(queries: list[torch.Tensor], key: torch.Tensor, queue: torch.Tensor | None, made: bool) -> torch.Tensor:
        if queue is None:
            return torch.stack([(each - key).square().sum(dim=1).mean() / 2 for each in queries]).mean()
        if made:  # drawn for all small views at once
            stacked = torch.cat(queries)
            return model.synthetic_negatives.readable_loss(stacked, key.repeat(len(queries), 1), queue)
        values = []
        for each in queries:
            logits = torch.cat([(each * key).sum(dim=1, keepdim=True), each @ queue.T], dim=1)
            values.append(F.cross_entropy(logits / settings.temperature, torch.zeros(len(each), dtype=torch.long)))
        return torch.stack(values).mean()

    first, second = query(view_1), query(view_2)
    small = [query(local[:, number]) for number in range(local.shape[1])]
    made = active and model.objective.synthesises
    total = pair([first], keys[1], queues[1], made) + pair([second], keys[0], queues[0], made)
    made = made and settings.synthetic_for_local_crops
    for number in (1, 0):
        total = total + len(small) * pair(small, keys[number], queues[number], made)
    return 2 * total / (2 + 2 * len(small))


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
@pytest.mark.parametrize(
    ("method", "for_local"), [("synco-v2", False), ("synco-v2", True), ("moby", False), ("byol", False)]
)
def test_loss_and_gradients_are_those_of_a_loop_over_views_and_pairs(method, for_local, backbone):
    model = build(method, backbone, synthetic_for_local_crops=for_local, online_drop_path_rate=0.0)
    slow, (view_1, view_2, local) = copy.deepcopy(model), draw_batch()
    torch.manual_seed(1)
    expected = losses_by_loop(slow, view_1, view_2, local, active=True)
    torch.manual_seed(1)
    output = model(view_1, view_2, synthetic_active=True, local_views=local)
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)
    expected.backward()
    output.loss.backward()
    for (name, ours), theirs in zip(model.named_parameters(), slow.parameters(), strict=True):
        if ours.requires_grad:
            assert (ours.grad - theirs.grad).norm() < 1e-3 * theirs.grad.norm() + 1e-5, name
    # Target, keys and queues are those of the two views alone.
    alone = copy.deepcopy(slow)
    alone(view_1, view_2, synthetic_active=True)
    if model.objective.has_queue:
        torch.testing.assert_close(model.queue_1.keys, alone.queue_1.keys)


def test_none_is_the_step_of_two_views_to_the_bit():
    view_1, view_2, _ = draw_batch()
    losses = []
    for further in ({}, {"local_views": None}):
        model = build()
        torch.manual_seed(2)
        losses.append(model(view_1, view_2, synthetic_active=True, **further).loss)
        losses[-1].backward()
        losses.append(model.predictor[0].weight.grad)
    assert torch.equal(losses[0], losses[2])
    assert torch.equal(losses[1], losses[3])
    # Limit: where every small view is the first view, the loss is that of the pairs that it makes.
    model = build("byol", online_drop_path_rate=0.0).eval()
    same = view_1[:, None].repeat(1, 4, 1, 1, 1)
    with torch.no_grad():
        two, many = model(view_1, view_2).loss, model(view_1, view_2, local_views=same).loss
        features = model.synco(view_1).pooler_output
        query = normalize(model.predictor(model.projector(features)))
        keys = [normalize(model.target_projector(model.target(view).pooler_output)) for view in (view_1, view_2)]
        pairs = sum(1 - (query * key).sum(dim=1).mean() for key in keys)
    torch.testing.assert_close(many, (two + 4 * pairs) / 5)


# A run of it


@pytest.mark.parametrize("place", ["worker", "device"])
def test_half_a_run_resumed_is_the_whole_run_bit_for_bit(tmp_path, place):
    def train(output, checkpoint=None):
        model = build()
        arguments = SynCoTrainingArguments(
            output_dir=str(output), use_cpu=True, max_steps=6, per_device_train_batch_size=4, save_strategy="steps",
            save_steps=2, save_total_limit=5, dataloader_num_workers=0, disable_tqdm=True, learning_rate=1e-3,
        )  # fmt: skip
        views = TwoViewDataset(load_dataset(FRACTALS), make_two_view_transform(place, 32, LOCAL), seed=0)
        trainer = SynCoTrainer(model, arguments, views)
        trainer.train(checkpoint)
        return trainer.unwrapped_model.state_dict()

    whole = train(tmp_path / "whole")
    resumed = train(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-4"))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


@pytest.mark.parametrize("for_local", [False, True])
def test_a_run_says_what_small_views_cost_and_what_guessing_gives(tmp_path, caplog, for_local):
    words = [*TINY, "--local-crops", "4", "--local-size", "16", "--crop-scale", "0.25", "1", "--local-scale", "0.05"]
    words += ["0.25", "--synthetic-warmup-epochs", "0", "--synthetic-cooldown-epochs", "0"]
    words += ["--num-mixup", "6", *(f"--num-{kind}=0" for kind in ("interpolation", "extrapolation"))]
    words += [f"--num-{kind}=0" for kind in ("noise-injection", "gradient-perturbation", "adversarial-perturbation")]
    words += ["--synthetic-for-local-crops"] if for_local else []
    main([*words, "--output-dir", str(tmp_path)])
    assert "4 small views of 16 pixels: 16 patches of an image beside 32 of both views" in caplog.text
    settings = json.loads((tmp_path / "pretraining_settings.json").read_text())
    given = {"crop_scale": [0.25, 1.0], "local_crops": 4, "local_size": 16, "local_scale": [0.05, 0.25]}
    assert settings["views"] == given
    assert settings["pretraining"]["synthetic_for_local_crops"] is for_local
    summary = json.loads((tmp_path / "pretraining_summary.json").read_text())
    small = 32 + 6 if for_local else 32
    guess = 2 * (math.log(1 + 38) + 4 * math.log(1 + small)) / 5
    assert summary["last_log"]["loss_of_guessing"] == pytest.approx(guess)


def test_stating_the_cost_leaves_network_and_random_states_alone():
    """Operations are those of a count by hand: matrix products grow with patches, attention with their squares."""
    model = build("moby")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(9)
    line = describe_step_cost(model, 4, local_crops=4, local_size=16)
    drawn = torch.randn(3)
    torch.manual_seed(9)
    assert torch.equal(drawn, torch.randn(3))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    operations = re.search(r"([\d.]+) GFLOP an image in the place of ([\d.]+)", line)
    assert operations is not None
    dim, depth = 96, 3

    def count(tokens: int) -> float:
        """Products of one image in the blocks, 12 · tokens · dim² and 2 · tokens² · dim, two operations each."""
        return 2 * depth * (12 * tokens * dim**2 + 2 * tokens**2 * dim)

    # Forward and twice as much backward of the online network, forward of the target. Heads and patches are a rest.
    both, small = 2 * (3 + 1) * count(17), 4 * 3 * count(5)
    assert float(operations[1]) - float(operations[2]) == pytest.approx(small / 1e9, rel=0.1)
    assert float(operations[2]) == pytest.approx(both / 1e9, rel=0.1)
    # Of 16 patches half stay for the online network.
    line = describe_step_cost(build("moby", token_dropout=0.5), 4)
    assert "--token-dropout 0.5: 8 of 16 patches stay" in line
    operations = re.search(r"([\d.]+) GFLOP an image in the place of ([\d.]+)", line)
    assert operations is not None
    saved = 2 * 3 * (count(17) - count(9))
    assert float(operations[2]) - float(operations[1]) == pytest.approx(saved / 1e9, rel=0.1)


@pytest.mark.parametrize("name", [name for name in list_recipes() if name.startswith("multi-crop/")])
def test_recipes_of_small_views_have_dinos_sizes_and_train(name, tmp_path):
    run = parse(["--recipe", name, "--output-dir", str(tmp_path), "--use-cpu"])
    given = {"crop_scale": (0.25, 1.0), "local_crops": 8, "local_size": 96, "local_scale": (0.05, 0.25)}
    assert run.views.changed() == given
    small = ["--local-size", "16", "--image-size", "32", "--patch-size", "8", "--embed-dim", "16", "--depth", "1"]
    small = (
        [*small, "--num-heads", "2"] if "deit" in name else "--backbone swin-nano --depth 2 2 --local-size 16".split()
    )
    main(["--recipe", name, *TINY[2:], *small, "--gradient-accumulation-steps", "1", "--output-dir", str(tmp_path)])
    summary = json.loads((tmp_path / "pretraining_summary.json").read_text())
    assert math.isfinite(summary["last_log"]["loss"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--local-crops 2 --local-size 40", "small views are smaller than the views of 32 pixels: give 16"),
        ("--local-crops 2 --local-size 20", "no whole number of patches of 8 pixels: give a multiple, such as 16"),
        ("--local-crops -1", "give 0 for none"),
        ("--local-crops 2 --local-size 16 --local-scale 0.3", "give two numbers"),
        ("--local-crops 2 --local-size 16 --local-scale 0.5 1.5", "a crop cannot be larger than its image"),
        ("--local-size 16", "is for small views: give --local-crops"),
        ("--local-crops 2", "--local-size 96: small views are smaller"),
        ("--local-crops-number 2", "--local-crops"),
    ],
)
def test_small_views_that_are_none_are_refused(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit):
        main(["--output-dir", str(tmp_path / "run"), *TINY, *flags.split()])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "pretraining_settings.json").exists()
