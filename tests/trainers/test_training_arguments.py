import dataclasses
import math

import pytest

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
