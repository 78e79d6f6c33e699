import dataclasses
import math

import pytest
import torch
from torch import nn

from synco_hub.models import SynCoConfig, SynCoModel
from trainers.classification.arguments import FineTuningArguments, LinearProbeArguments
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.training_arguments import CheckedTrainingArguments

KINDS = (SynCoTrainingArguments, LinearProbeArguments, FineTuningArguments)


@pytest.mark.parametrize("kind", KINDS)
def test_every_training_holds_to_the_same(kind, tmp_path):
    assert issubclass(kind, CheckedTrainingArguments)
    args = kind(output_dir=str(tmp_path), use_cpu=True)
    assert args.do_train
    assert args.lr_scheduler_type == "cosine"
    # torch would warn of pinned memory, at every run without a GPU.
    assert not args.dataloader_pin_memory
    assert not args.accelerator_config.non_blocking
    assert args.given_flags == ()
    assert {field.name for field in dataclasses.fields(kind)}.isdisjoint({"does_otherwise", "given_flags"})
    with pytest.raises(ValueError, match="at least 2"):
        kind(output_dir=str(tmp_path), use_cpu=True, save_total_limit=1)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_that_a_cpu_does_not_have_is_said_and_not_recorded(kind, tmp_path, caplog):
    args = kind(output_dir=str(tmp_path), use_cpu=True, fp16=True)
    assert (args.fp16, args.mixed_precision) == (False, "no")
    assert "computes in fp32" in caplog.text
    caplog.clear()
    assert kind(output_dir=str(tmp_path), use_cpu=True, bf16=True).mixed_precision == "bf16"
    assert caplog.text == ""


@pytest.mark.parametrize("kind", [SynCoTrainingArguments, FineTuningArguments])
def test_which_of_two_flags_holds_is_said(kind, tmp_path, caplog, monkeypatch):
    kind(output_dir=str(tmp_path), use_cpu=True, max_steps=3, learning_rate=0.1)
    assert caplog.text == ""
    kind(output_dir=str(tmp_path), use_cpu=True, max_steps=3, num_train_epochs=7)
    kind(output_dir=str(tmp_path), use_cpu=True, learning_rate=0.1, base_learning_rate=0.2)
    assert "--max-steps 3 decides how long the run is, not --num-train-epochs 7" in caplog.text
    assert "--learning-rate 0.1 is used as it is, not --base-learning-rate 0.2" in caplog.text
    caplog.clear()
    monkeypatch.setenv("RANK", "1")
    kind(output_dir=str(tmp_path), use_cpu=True, max_steps=3, num_train_epochs=7)
    assert caplog.text == ""


@pytest.mark.parametrize("kind", [SynCoTrainingArguments, FineTuningArguments])
@pytest.mark.parametrize(("accumulated", "images"), [(1, 300), (7, 300), (18, 300), (100, 300), (5, 47)])
def test_the_rate_is_scaled_by_the_images_that_a_step_has(kind, accumulated, images, tmp_path):
    args = kind(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=16, gradient_accumulation_steps=accumulated
    )
    args.fit_to(images)
    # The micro-batches of an epoch, one by one, until a step is complete or the epoch is over.
    batches = [16] * (images // 16) + ([] if args.dataloader_drop_last else [images % 16] * (images % 16 > 0))
    largest = len(batches[:accumulated])
    assert args.gradient_accumulation_steps == largest
    assert math.isclose(args.learning_rate, args.base_learning_rate * 16 * largest / 512)


def test_a_given_rate_is_used_as_it_is_whatever_a_step_has(tmp_path, caplog):
    args = SynCoTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, gradient_accumulation_steps=9, learning_rate=0.3
    )
    args.fit_to(128)
    assert (args.learning_rate, args.global_batch_size) == (0.3, 128)
    assert "--gradient-accumulation-steps 9: an epoch has 1 batches" in caplog.text


def test_a_batch_that_the_data_cannot_fill_is_said(tmp_path, caplog):
    FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=256).fit_to(40)
    assert "a step has 40 images at most, and the learning rate is scaled for 256" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_gpu_training_takes_the_cpu_in_bfloat16_too(kind, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    args = kind(output_dir=str(tmp_path), bf16=True)
    assert (args.use_cpu, args.device.type, args.mixed_precision) == (True, "cpu", "bf16")
    args.refuse_given({"bf16": True})
    assert caplog.text == ""
    args.refuse_given({"use_cpu": args.use_cpu})
    assert "--use-cpu false: no GPU is visible, so this run trains on the CPU" in caplog.text


@pytest.mark.parametrize(
    ("values", "measures", "tried", "remedy"),
    [
        (
            {"per_device_train_batch_size": 512},
            False,
            "training 512 images of 32 pixels with vit-nano",
            "give --per-device-train-batch-size 256 --gradient-accumulation-steps 2, which are as many images a step, "
            "or --gradient-checkpointing, which keeps less and computes more",
        ),
        (
            {"per_device_train_batch_size": 1, "gradient_checkpointing": True},
            False,
            "training 1 image of 32 pixels with vit-nano",
            "give a smaller network",
        ),
        (
            {"per_device_eval_batch_size": 64},
            True,
            "measuring 64 images of 32 pixels with vit-nano",
            "give --per-device-eval-batch-size 32",
        ),
    ],
)
def test_what_asks_for_less_memory_is_half_of_the_batch(values, measures, tried, remedy, tmp_path):
    args = FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, **values)
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    assert args.describe_load(network, False, measures) == (tried, remedy)


def test_a_frozen_network_is_not_told_to_keep_less_for_its_backward_pass(tmp_path):
    args = LinearProbeArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=7)
    tried, remedy = args.describe_load(nn.Linear(2, 2), True, False)
    assert (tried, remedy) == (
        "training 7 images with Linear",
        "give --per-device-train-batch-size 3 --gradient-accumulation-steps 2",
    )
