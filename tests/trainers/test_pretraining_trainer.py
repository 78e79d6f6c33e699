import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pillow_views import PillowTwoViewTransform
from safetensors.torch import load_file
from torch import nn

from synco_hub.data import ImageDataset, TwoViewDataset, load_dataset
from synco_hub.data.views.device_views import DeviceViews
from synco_hub.data.views.transform import make_two_view_transform
from synco_hub.models import SynCoConfig, image_processor
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer, synchronize_batch_norm
from trainers.pretraining_views import build_device_views
from trainers.schedules import target_momentum

SMALL = {"queue_size": 32, "num_hard_negatives": 8, "projection_hidden_dim": 24, "projection_dim": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for index in range(40):
        pixels = torch.randint(0, 256, (36, 40, 3), generator=generator, dtype=torch.uint8).numpy()
        path = root / "train" / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (root / "test" / "class0").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(root / "test" / "class0" / "0.png")
    return root


def by_pillow(pixels: np.ndarray, seed_key: int) -> tuple[torch.Tensor, torch.Tensor]:
    return PillowTwoViewTransform(32)(Image.fromarray(pixels), seed_key)


def trainer_for(
    folder, output, seed: int = 0, settings: dict | None = None, place: str = "worker", **values: object
) -> SynCoTrainer:
    torch.manual_seed(seed)
    model = SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining={**SMALL, **(settings or {})}))
    defaults = {"max_steps": 6, "per_device_train_batch_size": 8, "logging_steps": 2, "dataloader_num_workers": 0}
    args = SynCoTrainingArguments(
        output_dir=str(output),
        use_cpu=True,
        seed=seed,
        disable_tqdm=True,
        **{**defaults, "save_strategy": "no", **values},
    )
    images: ImageDataset = load_dataset(str(folder), "train")
    transform = by_pillow if place == "pillow" else make_two_view_transform(place, 32)
    views = TwoViewDataset(images, transform, seed=seed)
    return SynCoTrainer(model, args, views, processing_class=image_processor(32))


def state_of(trainer: SynCoTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.unwrapped_model.state_dict().items()}


def test_logs_show_everything_at_each_logging_step(folder, tmp_path):
    trainer = trainer_for(folder, tmp_path, max_steps=10, logging_steps=2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [2, 4, 6, 8, 10]
    expected = {"loss", "learning_rate", "momentum", "images_per_second", "contrast_accuracy", "synthetic_active"}
    assert expected | {"num_synthetic", "feature_std", "grad_norm"} <= set(logs[0])
    assert trainer.synthesis_window == range(1, 7)
    assert [entry["synthetic_active"] for entry in logs] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert [entry["num_synthetic"] for entry in logs] == [768.0] * 3 + [0.0] * 2
    # Two directions, each one key among queue and synthetic negatives.
    queue = trainer.unwrapped_model.settings.queue_size
    guessing = [2 * math.log(1 + queue + entry["num_synthetic"]) for entry in logs]
    assert [entry["loss_of_guessing"] for entry in logs] == pytest.approx(guessing)
    assert [entry["momentum"] for entry in logs] == [target_momentum(step, 10) for step in (2, 4, 6, 8, 10)]
    assert all(entry["grad_norm"] > 0 for entry in logs)


def test_a_log_says_whether_its_own_step_was_one_of_the_window(folder, tmp_path):
    trainer = trainer_for(folder, tmp_path)
    trainer.state.max_steps = 10
    assert trainer.synthesis_window == range(1, 7)
    for step in range(1, 11):  # after so many steps
        trainer.state.global_step = step
        trainer.log({"loss": 1.0})
    assert [entry["synthetic_active"] for entry in trainer.state.log_history] == [0.0] + [1.0] * 6 + [0.0] * 3


def test_target_follows_the_definition_step_by_step(folder, tmp_path):
    trainer = trainer_for(folder, tmp_path, max_steps=4, learning_rate=1e-2, logging_steps=100)
    model, history = trainer.unwrapped_model, []
    online = [*model.synco.parameters(), *model.projector.parameters()]
    target = [*model.target.parameters(), *model.target_projector.parameters()]
    expected = [p.detach().clone() for p in target]
    original = trainer.unwrapped_model.update_target_network

    def recorded(momentum: float) -> None:
        history.append(momentum)
        original(momentum)
        for kept, parameter in zip(expected, online, strict=True):
            kept.mul_(momentum).add_(parameter.detach(), alpha=1 - momentum)

    model.update_target_network = recorded  # type: ignore[method-assign]
    trainer.train()
    assert history == [1 - (1 - 0.99) * (math.cos(math.pi * k / 4) + 1) / 2 for k in (1, 2, 3, 4)]
    for want, parameter in zip(expected, target, strict=True):
        torch.testing.assert_close(parameter, want)
    assert any(not torch.equal(a, b) for a, b in zip(online, target, strict=True))


@pytest.mark.parametrize("place", ["worker", "device"])
def test_half_a_run_resumed_is_the_whole_run_bit_for_bit(folder, tmp_path, place):
    common = {"max_steps": 12, "save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-3, "place": place}
    whole = trainer_for(folder, tmp_path / "whole", **common)
    whole.train()
    resumed = trainer_for(folder, tmp_path / "resumed", seed=0, **common)
    with torch.no_grad():
        for parameter in resumed.model.parameters():
            parameter.add_(1.0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-8"))
    ours, theirs = state_of(resumed), state_of(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


SAVED = {"max_steps": 12, "save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-3, "save_total_limit": 5}


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A finished run with checkpoints after 4, 8 and 12 steps; an epoch has 5."""
    output = tmp_path_factory.mktemp("whole")
    trainer_for(folder, output, **SAVED).train()
    return output


@pytest.fixture
def stopped(whole, tmp_path):
    """The same run, stopped after step 8."""
    return Path(shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-12")))


def damage(checkpoint: Path) -> None:
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[:-4000] + bytes(4000))


def ends_alike(one: Path, other: Path) -> bool:
    names = ("model.safetensors", "trainer_state.json")
    weights, states = ([(run / "checkpoint-12" / name).read_bytes() for run in (one, other)] for name in names)
    rates = [[entry["learning_rate"] for entry in json.loads(state)["log_history"]] for state in states]
    return weights[0] == weights[1] and rates[0] == rates[1]


@pytest.mark.parametrize("asked", ["the call", "a path", "the run", "resume", "resume_from_checkpoint"])
def test_every_way_to_resume_passes_over_damage_and_ends_at_the_same_bits(
    folder, whole, stopped, asked, monkeypatch, caplog
):
    damage(stopped / "checkpoint-8")
    arguments = {"resume": {"resume": True}, "resume_from_checkpoint": {"resume_from_checkpoint": True}}
    calls = {"the call": True, "a path": str(stopped / "checkpoint-4"), "the run": stopped}
    trainer = trainer_for(folder, stopped, **SAVED, **arguments.get(asked, {}))
    steps = []
    original = trainer.unwrapped_model.update_target_network
    monkeypatch.setattr(trainer.unwrapped_model, "update_target_network", lambda m: (steps.append(m), original(m)))
    trainer.train(calls.get(asked))
    assert len(steps) == 8
    assert ends_alike(whole, stopped)
    assert f"resuming from {stopped / 'checkpoint-4'}" in caplog.text


def test_what_is_named_and_damaged_or_not_there_is_refused(folder, stopped):
    damage(stopped / "checkpoint-8")
    trainer = trainer_for(folder, stopped, **SAVED)
    with pytest.raises(ValueError, match=r"checkpoint-8 is damaged: model\.safetensors was changed.*--resume"):
        trainer.train(str(stopped / "checkpoint-8"))
    with pytest.raises(ValueError, match="checkpoint-99 is no folder"):
        trainer.train(resume_from_checkpoint=str(stopped / "checkpoint-99"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_device_train_batch_size": 4}, "global_batch_size=8 and is now"),
        ({"seed": 1}, "seed=0 and is now to be continued with seed=1"),
        ({"settings": {"method": "byol"}}, "superfluous"),
        ({"settings": {"temperature": 0.5}}, "temperature was 0.2 and is now 0.5"),
        ({"settings": {"projection_dim": 8}}, "projection_dim was 16 and is now 8"),
    ],
)
def test_what_another_run_wrote_is_not_continued(folder, stopped, changes, message):
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    with pytest.raises(ValueError, match=message):
        trainer_for(folder, stopped, **{**SAVED, **changes}).train(resume_from_checkpoint=True)
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before


def test_nothing_to_continue_is_said_and_the_run_begins(folder, tmp_path, caplog):
    trainer = trainer_for(folder, tmp_path / "new", max_steps=1, resume=True)
    trainer.train()
    assert trainer.state.global_step == 1
    assert "resuming from the beginning: there is no complete checkpoint" in caplog.text


def test_a_finished_run_takes_no_step_more(folder, whole, caplog):
    trainer = trainer_for(folder, whole, **SAVED, resume=True)
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    trainer.unwrapped_model.update_target_network = None  # type: ignore[assignment]
    ended = trainer.train()
    assert ended.global_step == trainer.state.global_step == 12
    stored = load_file(whole / "checkpoint-12" / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in trainer.unwrapped_model.state_dict().items())
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before
    assert "there is nothing to train" in caplog.text


def test_a_new_training_neither_overwrites_nor_deletes_an_earlier_ones_checkpoints(folder, stopped, caplog):
    earlier = {name: (stopped / name / "model.safetensors").read_bytes() for name in ("checkpoint-4", "checkpoint-8")}
    trainer_for(folder, stopped, **{**SAVED, "learning_rate": 1e-2, "save_total_limit": 2}).train()
    assert "holds checkpoint-4, checkpoint-8, which this training does not continue" in caplog.text
    assert sorted(path.name for path in stopped.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-8"]
    kept = {path.name: (path / "model.safetensors").read_bytes() for path in (stopped / "earlier-1").iterdir()}
    assert kept == earlier
    assert trainer_for(folder, stopped, **SAVED).find_latest_checkpoint() == str(stopped / "checkpoint-12")


@pytest.mark.parametrize("workers", [1, 3])
def test_neither_the_number_of_workers_nor_a_resume_with_another_changes_a_bit(workers, folder, tmp_path, whole):
    trainer_for(folder, tmp_path, **{**SAVED, "dataloader_num_workers": workers}).train()
    shutil.rmtree(tmp_path / "checkpoint-12")
    resumed = trainer_for(folder, tmp_path, **{**SAVED, "dataloader_num_workers": 4 - workers})
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    expected = load_file(whole / "checkpoint-12" / "model.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in resumed.unwrapped_model.state_dict().items())


def test_the_device_finishes_the_views_that_the_worker_would_have_made(folder, tmp_path):
    seen = {}
    for place in ("worker", "device", "pillow"):
        trainer = trainer_for(folder, tmp_path / place, place=place, max_steps=1)
        original, views = trainer.unwrapped_model.forward, []

        def recorded(view_1, view_2, synthetic_active=False, original=original, views=views):
            views += [view_1, view_2]
            return original(view_1=view_1, view_2=view_2, synthetic_active=synthetic_active)

        trainer.unwrapped_model.forward = recorded
        trainer.train()
        seen[place] = torch.cat(views)
        assert trainer.describe_run()["augment_on"] == (None if place == "pillow" else place)
    assert seen["device"].shape == (16, 3, 32, 32)
    grey_level = 1 / 255 / 0.225
    for place in ("worker", "device"):
        assert 0 < (seen[place] - seen["pillow"]).abs().mean() < 2 * grey_level


@pytest.mark.parametrize(
    ("device", "backend", "compiled_by"), [("cuda", None, "inductor"), ("cpu", None, None), ("cpu", "eager", "eager")]
)
def test_a_gpu_distorts_views_by_compiled_code_and_a_cpu_if_asked(device, backend, compiled_by, monkeypatch):
    found = []
    monkeypatch.setattr(DeviceViews, "to", lambda half, where: found.append(where.type) or half)
    monkeypatch.setattr(DeviceViews, "compile", lambda half, backend: found.append(backend))
    args = SimpleNamespace(
        device=torch.device(device), torch_compile=backend is not None, torch_compile_backend=backend
    )
    assert isinstance(build_device_views(make_two_view_transform("device", 32), args), DeviceViews)
    assert found == [device] + ([compiled_by] if compiled_by else [])
    assert build_device_views(make_two_view_transform("worker", 32), args) is None


def test_accumulation_is_real(folder, tmp_path):
    trainer = trainer_for(
        folder, tmp_path, settings={"method": "byol"}, max_steps=2, per_device_train_batch_size=4,
        gradient_accumulation_steps=5,
    )  # fmt: skip
    momenta = []
    trainer.unwrapped_model.update_target_network = momenta.append  # type: ignore[method-assign]
    trainer.train()
    assert trainer.steps_per_epoch == 2
    assert len(momenta) == 2
    assert trainer.args.global_batch_size == 20


def test_weight_decay_leaves_norms_biases_tokens_and_tables_alone(folder, tmp_path):
    trainer = trainer_for(folder, tmp_path)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    plain = [names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    decayed = [names[id(p)] for group in groups if group["weight_decay"] == 0.1 for p in group["params"]]
    assert "synco.backbone.cls_token" in plain
    assert all(".bias" in name or "norm" in name or "cls_token" in name or ".1.weight" in name for name in plain)
    assert "synco.backbone.blocks.0.attn.qkv.weight" in decayed
    assert not any("target" in name or "pos_embed" in name for name in plain + decayed)
    assert type(trainer.optimizer).__name__ == "AdamW"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nan_stops_with_the_step_and_the_last_good_checkpoint(folder, tmp_path):
    trainer = trainer_for(
        folder, tmp_path, max_steps=9, save_strategy="steps", save_steps=2, logging_steps=1, learning_rate=1e-3
    )
    original = trainer.compute_loss

    def poisoned(model, inputs, *args, **kwargs):
        if trainer.state.global_step == 5:
            inputs["view_1"] = inputs["view_1"] * float("nan")
        return original(model, inputs, *args, **kwargs)

    trainer.compute_loss = poisoned  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match=r"step 5; the last good checkpoint is .*checkpoint-4"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def test_an_empty_synthesis_window_is_warned_about(folder, tmp_path, caplog):
    trainer = trainer_for(folder, tmp_path, max_steps=5, synthetic_warmup_epochs=3, synthetic_cooldown_epochs=3)
    trainer.train()
    assert "synthesis window is empty" in caplog.text
    assert all(entry.get("synthetic_active", 0.0) == 0.0 for entry in trainer.state.log_history)


def test_a_batch_larger_than_the_data_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="fewer than one batch of 64"):
        trainer_for(folder, tmp_path, per_device_train_batch_size=64)


def test_a_checkpoint_of_another_network_is_refused(folder, tmp_path):
    first = trainer_for(folder, tmp_path / "a", max_steps=2, save_strategy="steps", save_steps=2)
    first.train()
    second = trainer_for(folder, tmp_path / "b", settings={"method": "byol"}, max_steps=4)
    with pytest.raises(ValueError, match="superfluous"):
        second.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))


def test_batch_statistics_are_shared_where_the_device_can(caplog):
    settings = {"queue_size": 8, "num_hard_negatives": 2, "projection_hidden_dim": 16, "projection_dim": 8}
    config = SynCoConfig(backbone="vit-nano", depth=1, pretraining=settings)
    model = SynCoForPreTraining(config)
    keys = list(model.state_dict())
    assert synchronize_batch_norm(model, "cpu") is model
    assert "not synchronised on cpu" in caplog.text
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    shared = synchronize_batch_norm(model, "cuda")
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in shared.modules()) == 3
    assert not any(isinstance(module, nn.BatchNorm1d) for module in shared.modules())
    assert list(shared.state_dict()) == keys
