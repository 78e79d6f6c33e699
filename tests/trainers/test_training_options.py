"""Precision, compilation, gradient checkpointing and accumulation as flags of a real run."""

import collections
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainers.info_nce import info_nce
from trainers.pretrain import main
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer
from trainers.schedules import learning_rate_factor, target_momentum

FLAGS = (
    "--depth 1 --queue-size 32 --num-hard-negatives 8 --projection-hidden-dim 16 --projection-dim 8 "
    "--per-device-train-batch-size 4 --dataloader-num-workers 0 --use-cpu --logging-steps 1 --max-steps 4 "
    "--save-strategy no --disable-tqdm true --learning-rate 1e-3 --synthetic-warmup-epochs 0 "
    "--synthetic-cooldown-epochs 0 --dataset fractals:num_classes=2,train_images_per_class=16"
).split()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def losses(output: Path, home: Path, monkeypatch, *flags: str) -> list[float]:
    monkeypatch.setenv("SYNCO_HUB_HOME", str(home))
    found: list[float] = []
    log = SynCoTrainer.log

    def recorded(trainer: SynCoTrainer, logs: dict[str, float], *args: object) -> None:
        log(trainer, logs, *args)
        if "loss" in logs:
            found.append(logs["loss"])

    monkeypatch.setattr(SynCoTrainer, "log", recorded)
    main([*FLAGS, "--backbone", "vit-nano", "--output-dir", str(output), *flags])
    monkeypatch.undo()
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory, home):
    with pytest.MonkeyPatch.context() as patch:
        output = tmp_path_factory.mktemp("plain") / "run"
        return losses(output, home, patch), load_file(output / "model.safetensors")


def test_gradient_checkpointing_changes_no_bit(plain, home, tmp_path, monkeypatch, recwarn):
    found = losses(tmp_path / "run", home, monkeypatch, "--gradient-checkpointing", "true")
    assert found == plain[0]
    assert not [each for each in recwarn if "gradient_checkpointing" in str(each.message)]
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in plain[1].items())


def test_compiled_training_follows_the_plain_one(plain, home, tmp_path, monkeypatch, as_on_an_accelerator):
    # A trace draws synthetic negatives as an accelerator does, so what it is compared with must do so, too.
    expected = losses(tmp_path / "plain", home, monkeypatch)
    # The eager backend takes the compiler's way without its minutes.
    found = losses(tmp_path / "run", home, monkeypatch, "--compile", "--torch-compile-backend", "eager")
    assert found == pytest.approx(expected, rel=1e-4)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model_type"] == "synco"
    assert load_file(tmp_path / "run" / "model.safetensors").keys() == plain[1].keys()


def test_bf16_runs_the_backbone_in_half_and_the_contrast_in_full(home, tmp_path, monkeypatch):
    seen = collections.defaultdict(set)
    backbone, contrast = SynCoForPreTraining._online, SynCoForPreTraining._objective

    def watched_backbone(self, *views):
        features, *queries = backbone(self, *views)
        seen["backbone"].add(queries[0].dtype)
        return features, *queries

    def watched_contrast(self, *vectors):
        seen["contrast"] |= {vector.dtype for vector in vectors[:4]}
        seen["autocast"].add(torch.is_autocast_enabled("cpu"))
        loss, accuracy = contrast(self, *vectors)
        seen["loss"].add(loss.dtype)
        return loss, accuracy

    # At a high rate the first steps of Adam follow the signs of rounding, and the losses part.
    expected = losses(tmp_path / "plain", home, monkeypatch, "--learning-rate", "1e-6")
    monkeypatch.setattr(SynCoForPreTraining, "_online", watched_backbone)
    monkeypatch.setattr(SynCoForPreTraining, "_objective", watched_contrast)
    found = losses(tmp_path / "run", home, monkeypatch, "--bf16", "--learning-rate", "1e-6")
    assert seen["backbone"] == {torch.bfloat16}
    assert seen["contrast"] == {torch.float32}
    assert seen["loss"] == {torch.float32}
    assert seen["autocast"] == {False}
    assert found == pytest.approx(expected, rel=0.02)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_contrast_of_half_precision_vectors_is_that_of_full(dtype):
    generator = torch.Generator().manual_seed(0)
    query, key, queue = (
        torch.nn.functional.normalize(torch.randn(count, 16, generator=generator), dim=1).to(dtype)
        for count in (6, 6, 50)
    )
    half = info_nce(query, key, queue, 0.2).loss
    full = info_nce(query.float(), key.float(), queue.float(), 0.2).loss
    torch.testing.assert_close(half.float(), full, rtol=2e-3, atol=2e-3)


def test_byols_accumulation_updates_the_target_once_a_step(home, tmp_path, monkeypatch):
    momenta: list[float] = []
    update = SynCoForPreTraining.update_target_network

    def counted(self, momentum: float) -> None:
        momenta.append(momentum)
        update(self, momentum)

    monkeypatch.setattr(SynCoForPreTraining, "update_target_network", counted)
    flags = ["--method", "byol", "--gradient-accumulation-steps", "8"]
    found = losses(tmp_path / "run", home, monkeypatch, *flags)
    assert len(found) == len(momenta) == 4
    assert momenta == sorted(momenta)
    # ½ · (sum of the two 2 − 2cos) lies in [0, 4]; sums over micro-batches are means.
    assert all(0 <= loss <= 4 for loss in found)


def test_accumulated_gradients_are_those_of_the_whole_batch(home, tmp_path, monkeypatch):
    # Without BatchNorm, drop path and queue a batch of 16 is four of 4.
    common = ["--method", "byol", "--head-norm", "none", "--optim", "sgd", "--learning-rate", "0.5"]
    whole = [*common, "--per-device-train-batch-size", "16"]
    parts = [*common, "--per-device-train-batch-size", "4", "--gradient-accumulation-steps", "4"]
    one = losses(tmp_path / "whole", home, monkeypatch, *whole)
    four = losses(tmp_path / "parts", home, monkeypatch, *parts)
    assert four == pytest.approx(one, rel=1e-4)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("logging", [["--logging-steps", "50"], ["--logging-strategy", "no"]])
def test_weights_that_are_no_numbers_are_never_the_result(home, tmp_path, monkeypatch, capsys, logging):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(home))
    output = tmp_path / "run"
    flags = ["--backbone", "vit-nano", "--max-steps", "12", "--output-dir", str(output), "--learning-rate", "1e8"]
    with pytest.raises(SystemExit) as ended:
        main([*FLAGS, *flags, *logging])
    assert ended.value.code == 1
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("error: ")
    assert "Lower the learning rate" in last
    # And what the loader noted of the images it read, for the leak check.
    assert sorted(path.name for path in output.iterdir()) == [".pretraining_images", "pretraining_settings.json"]


def test_the_last_step_may_break_weights_whose_loss_was_a_number(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(home))
    update = SynCoForPreTraining.update_target_network

    def broken(self, momentum: float) -> None:
        update(self, momentum)
        if momentum == 1.0:
            torch.nn.init.constant_(self.synco.backbone.blocks[0].attn.qkv.bias, float("inf"))

    monkeypatch.setattr(SynCoForPreTraining, "update_target_network", broken)
    for name, strategy in (("none", ["no"]), ("steps", ["steps", "--save-steps", "2"])):
        output = tmp_path / name
        with pytest.raises(SystemExit) as ended:
            main([*FLAGS, "--backbone", "vit-nano", "--output-dir", str(output), "--save-strategy", *strategy])
        assert ended.value.code == 1
        assert "attn.qkv.bias" in capsys.readouterr().err
        assert not (output / "model.safetensors").exists()
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-2"]


def test_more_steps_on_resume_say_what_moves(home, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(home))
    flags = [*FLAGS, "--backbone", "vit-nano", "--output-dir", str(tmp_path), "--save-strategy", "steps"]
    main([*flags, "--save-steps", "2", "--max-steps", "4"])
    main([*flags, "--save-steps", "2", "--max-steps", "4", "--resume"])
    assert "moves its schedules" not in caplog.text
    main([*flags, "--save-steps", "2", "--max-steps", "12", "--resume"])
    (said,) = [record.getMessage() for record in caplog.records if "moves its schedules" in record.getMessage()]
    history = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())["log_history"]
    planned, fifth = (next(entry for entry in history if entry["step"] == step) for step in (4, 5))
    assert planned["momentum"] == 1.0
    assert "checkpoint-4 is of a run of 4 steps that is now to have 12" in said
    assert f"at step 5 learning rate 0 → {1e-3 * learning_rate_factor(4, 12, 2):.3g}; " in said
    assert f"target momentum 1 → {target_momentum(5, 12):.6g}; synthetic negatives off → on." in said
    assert said.endswith("Give --max-steps 4 to end it as it was planned.")
    assert fifth["synthetic_active"] == 1.0
    caplog.clear()
    main([*flags, "--save-steps", "2", "--max-steps", "12", "--resume"])
    assert "moves its schedules" not in caplog.text


def test_a_batch_that_does_not_fit_is_one_line_with_the_next_to_try(home, tmp_path, monkeypatch, capsys):
    def fail(self, *views):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 is full.")

    monkeypatch.setattr(SynCoForPreTraining, "_target", fail)
    with pytest.raises(SystemExit) as ended:
        losses(tmp_path / "run", home, monkeypatch)
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: the memory of the device is too small for training 4 images of 32 pixels with vit-nano (CUDA out of "
        "memory. Tried to allocate 9.00 GiB. GPU 0 is full): give --per-device-train-batch-size 2 "
        "--gradient-accumulation-steps 2, which are as many images a step, or --gradient-checkpointing, which keeps "
        "less and computes more."
    )
