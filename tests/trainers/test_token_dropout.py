import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel

from synco_hub.models import SynCoConfig
from trainers import pretraining_model
from trainers.pretrain import main
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer
from trainers.recipe import list_recipes, parse
from trainers.settings import PretrainingSettings
from trainers.token_dropout import TokenDropout

SMALL = {"queue_size": 32, "num_hard_negatives": 8, "projection_hidden_dim": 24, "projection_dim": 16}
# 16 patches a view, three steps an epoch.
RUN = (
    "--backbone vit-nano --depth 1 --queue-size 32 --num-hard-negatives 8 --projection-hidden-dim 16 "
    "--projection-dim 8 --per-device-train-batch-size 4 --dataloader-num-workers 0 --use-cpu --logging-steps 1 "
    "--max-steps 6 --disable-tqdm true --synthetic-warmup-epochs 0 --synthetic-cooldown-epochs 1 "
    "--dataset fractals:num_classes=2,train_images_per_class=6,test_images_per_class=3,image_size=32"
).split()


def model_with(backbone: str = "vit-nano", image_size: int = 32, **settings: object) -> SynCoForPreTraining:
    torch.manual_seed(0)
    pretraining = {**SMALL, "online_drop_path_rate": 0.0, **settings}
    return SynCoForPreTraining(SynCoConfig(backbone=backbone, image_size=image_size, pretraining=pretraining)).train()


def views(batch: int = 5, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, batch, 3, size, size, generator=generator)
    return first, second


def count_tokens(branch: nn.Module) -> list[int]:
    """Filled with the tokens of the first block at every forward."""
    counts: list[int] = []
    branch.backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1]))
    return counts


def features_image_by_image(network: nn.Module, images: torch.Tensor, share: float) -> torch.Tensor:
    """[CLS] of each image alone, from the tokens that the same draws keep, in the order of the picture."""
    backbone, features = network.backbone, []
    order = torch.randn(len(images), (images.shape[-1] // 8) ** 2).argsort(dim=1)
    for image, places in zip(images, order, strict=True):
        tokens = backbone._pos_embed(backbone.patch_embed(image[None]))[0]
        kept = sorted(places[: int(len(places) * (1 - share))].tolist())
        chosen = torch.stack([tokens[0], *(tokens[1 + place] for place in kept)])[None]
        for block in backbone.blocks:
            chosen = block(chosen)
        features.append(backbone.norm(chosen)[0, 0])
    return torch.stack(features)


@pytest.mark.parametrize(("online", "target"), [(0.5, 0.0), (0.3, 0.75), (0.0, 0.4)])
def test_loss_and_gradients_are_those_of_each_images_kept_tokens_taken_by_hand(online, target, monkeypatch):
    # Where it would go over to float32.
    monkeypatch.setattr(pretraining_model, "normalize", lambda vectors: F.normalize(vectors, dim=1))
    model = model_with(method="byol", token_dropout=online, target_token_dropout=target).double()
    view_1, view_2 = (view.double() for view in views())
    torch.manual_seed(3)
    loss = model(view_1, view_2).loss
    loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = [parameter.grad.clone() for parameter in trained]
    model.zero_grad()

    torch.manual_seed(3)
    both, shares = torch.cat([view_1, view_2]), {model.synco: online, model.target: target}
    branches = [
        features_image_by_image(branch, both, share) if share else branch(both).pooler_output
        for branch, share in shares.items()
    ]
    queries = [F.normalize(model.predictor(model.projector(part)), dim=1) for part in branches[0].chunk(2)]
    keys = [F.normalize(model.target_projector(part), dim=1).detach() for part in branches[1].chunk(2)]
    expected = sum((2 - 2 * (q * k).sum(1)).mean() for q, k in zip(queries, reversed(keys), strict=True)) / 2
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for gradient, parameter in zip(gradients, trained, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("share", "size"), [(0.25, 32), (0.5, 32), (0.9, 64), (0.99, 32)])
def test_so_many_tokens_are_kept_and_cls_is_one_of_them(share, size):
    model = model_with(image_size=size, token_dropout=share)
    patches = (size // 8) ** 2
    dropout = model.synco.backbone.patch_drop
    kept = dropout(torch.arange(1.0 + patches).expand(64, -1)[..., None])[..., 0]
    assert kept.shape == (64, 1 + max(1, int(patches * (1 - share))))
    assert kept[:, 0].tolist() == [0.0] * 64
    # Each image has others, and none twice.
    assert all(len(set(row.tolist())) == len(row) for row in kept)
    assert len({frozenset(row.tolist()) for row in kept}) > 8
    online, target = count_tokens(model.synco), count_tokens(model.target)
    model(*views(size=size))
    model.eval()(*views(size=size))
    assert online == [kept.shape[1], 1 + patches]
    assert target == [1 + patches] * 2
    assert model.synco(views(size=size)[0], output_hidden_states=True).hidden_states[0].shape[1] == 1 + patches


def test_without_it_nothing_is_drawn_and_the_network_is_timms():
    model = model_with()
    assert all(type(branch.backbone.patch_drop) is nn.Identity for branch in (model.synco, model.target))
    before = torch.get_rng_state()
    model(*views())
    assert torch.equal(torch.get_rng_state(), before)
    # Nor in the last step of a run, which has a share of 0.
    model = model_with(token_dropout=0.5)
    model.synco.backbone.patch_drop.prob = 0.0
    before = torch.get_rng_state()
    model(*views())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", ["synco-v2", "moby", "byol"])
def test_a_run_follows_the_schedule_and_leaves_a_plain_network(method, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    counts: dict[str, list[int]] = {}
    create = SynCoTrainer.__init__

    def watched(self, *args, **kwargs):
        create(self, *args, **kwargs)
        counts.update(online=count_tokens(self.model.synco), target=count_tokens(self.model.target))

    monkeypatch.setattr(SynCoTrainer, "__init__", watched)
    output = tmp_path / "run"
    flags = ["--token-dropout", "0.5", "--target-token-dropout", "0.25", "--token-dropout-cooldown-epochs", "1"]
    main([*RUN, "--output-dir", str(output), "--method", method, *flags])
    # Three steps of cool-down: 1/3 and 2/3 of the way are left, then nothing is dropped.
    shares = [0.5, 0.5, 0.5, 1 / 3, 1 / 6, 0.0]
    # Before the first step come trials of what it costs.
    assert counts["online"][-6:] == [1 + int(16 * (1 - share)) for share in shares]
    assert counts["target"][-6:] == [1 + int(16 * (1 - share / 2)) for share in shares]
    history = json.loads((output / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert [entry["token_dropout"] for entry in history if "loss" in entry] == pytest.approx(shares)
    assert [entry["target_token_dropout"] for entry in history if "loss" in entry] == pytest.approx(
        [share / 2 for share in shares]
    )
    assert all(math.isfinite(entry["loss"]) for entry in history if "loss" in entry)
    settings = json.loads((output / "pretraining_settings.json").read_text())
    assert settings["training"]["token_dropout_cooldown_epochs"] == 1
    assert (settings["pretraining"]["token_dropout"], settings["pretraining"]["target_token_dropout"]) == (0.5, 0.25)
    for place in (output, output / "checkpoint-6"):
        assert type(AutoModel.from_pretrained(place).backbone.patch_drop) is nn.Identity
    again = SynCoForPreTraining.from_pretrained(output / "checkpoint-6")
    assert type(again.synco.backbone.patch_drop) is TokenDropout
    plain = SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining={**SMALL, "method": method}))
    assert load_file(output / "checkpoint-6" / "model.safetensors").keys() == plain.state_dict().keys()


def test_every_trained_weight_takes_part_in_a_step():
    model = model_with(token_dropout=0.99)
    model(*views(), synthetic_active=True).loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []


@pytest.mark.parametrize("name", ["token_dropout", "target_token_dropout"])
def test_what_cannot_be_is_refused(name, tmp_path):
    flag, base = f"--{name.replace('_', '-')}", ["--output-dir", str(tmp_path), "--use-cpu"]
    for share in (-0.1, 1.0, 2.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"^{name}={share} is not in \[0, 1\): give the share"):
            PretrainingSettings(**{name: share})
    with pytest.raises(ValueError, match=rf"^{name}=0.5 is for a ViT.*leave {flag} out, or give") as refused:
        model_with("swin-nano", **{name: 0.5})
    assert "\n" not in str(refused.value)
    assert model_with("swin-nano", **{name: 0.0}).settings.token_dropouts == {}
    cooldown = [*base, "--token-dropout-cooldown-epochs"]
    with pytest.raises(ValueError, match="--token-dropout-cooldown-epochs 3 has no effect without token dropout"):
        parse([*cooldown, "3"])
    with pytest.raises(ValueError, match="--token-dropout-cooldown-epochs -1: give at least 0"):
        parse([*cooldown, "-1", flag, "0.5"])
    assert parse([*cooldown, "0", flag, "0.5"]).training.token_dropout_cooldown_epochs == 0
    args = SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, token_dropout_cooldown_epochs=3)
    with pytest.raises(ValueError, match="has no effect without token dropout"):
        SynCoTrainer(model_with(), args, [])


@pytest.mark.parametrize("name", [name for name in list_recipes() if name.startswith("token-dropout/")])
def test_recipes_leave_half_of_the_papers_patches_out_and_train(name, tmp_path):
    run = parse(["--recipe", name, "--output-dir", str(tmp_path), "--use-cpu"])
    assert (run.backbone.backbone, run.settings.token_dropouts) == ("deit-s", {"token_dropout": 0.5})
    assert run.settings.method == {"deit-s": "synco-v2"}.get(name.split("/")[1], name.split("/")[1].split("-")[0])
    small = ["--image-size", "32", "--patch-size", "8", "--embed-dim", "16", "--num-heads", "2"]
    recipe = ["--recipe", name, "--gradient-accumulation-steps", "1"]
    main([*recipe, *RUN[2:], *small, "--output-dir", str(tmp_path)])
    summary = json.loads((tmp_path / "pretraining_summary.json").read_text())
    assert math.isfinite(summary["last_log"]["loss"])
