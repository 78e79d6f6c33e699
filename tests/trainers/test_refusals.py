import dataclasses
import math
import re

import pytest
import torch
from transformers import TrainingArguments

from trainers.classification.arguments import (
    FINE_TUNING_KINDS,
    LINEAR_PROBE_KINDS,
    FineTuningArguments,
    LinearProbeArguments,
)
from trainers.command import parse_flags
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.recipe import KINDS as PRETRAINING
from trainers.refusals import (
    FINE_TUNING_DOES_OTHERWISE,
    HAVE_EFFECT,
    LINEAR_PROBE_DOES_OTHERWISE,
    LOWEST,
    PRETRAINING_DOES_OTHERWISE,
    choose_cpu_without_gpu,
    list_defaults,
    refuse_given,
    refuse_ignored,
    refuse_impossible,
    refuse_missing_bfloat16,
    refuse_separate_processes,
)

KINDS = (SynCoTrainingArguments, LinearProbeArguments, FineTuningArguments)


POSSIBLE = {"num_train_epochs": 3, "max_steps": -1}


@pytest.mark.parametrize("name", LOWEST)
def test_below_the_lowest_and_no_numbers_are_refused(name):
    lowest, reached = LOWEST[name]
    flag = f"--{name.replace('_', '-')} "
    for value in (lowest - 1, -math.inf, math.inf, math.nan, *(() if reached else (lowest,))):
        with pytest.raises(ValueError, match=flag):
            refuse_impossible({**POSSIBLE, name: value})
    for value in (None, lowest + 1, *((lowest,) if reached else ())):
        refuse_impossible({**POSSIBLE, name: value})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"max_steps": 0}, "--max-steps 0: give at least 1"),
        ({"max_steps": -5}, "--max-steps -5"),
        ({"num_train_epochs": 0}, "--num-train-epochs 0"),
        ({"num_train_epochs": math.nan}, "--num-train-epochs nan"),
        ({"num_train_epochs": math.nan, "max_steps": 4}, "--num-train-epochs nan"),
        ({"adam_beta2": 3}, "--adam-beta2 3: give at least 0 and at most 1"),
        ({"logging_steps": -4}, "--logging-steps -4: give at least 0"),
        ({"momentum_start": 1.5}, "--momentum-start 1.5: give at least 0 and at most 1"),
        ({"momentum": 2}, "--momentum 2: give at least 0 and at most 1"),
        ({"max_bad_fraction": 2}, "--max-bad-fraction 2: give at least 0 and at most 1"),
    ],
)
def test_lengths_and_shares(values, text):
    with pytest.raises(ValueError, match=text):
        refuse_impossible({**POSSIBLE, **values})
    refuse_impossible({"num_train_epochs": 0, "max_steps": 4})


DO_OTHERWISE = {
    SynCoTrainingArguments: PRETRAINING_DOES_OTHERWISE,
    LinearProbeArguments: LINEAR_PROBE_DOES_OTHERWISE,
    FineTuningArguments: FINE_TUNING_DOES_OTHERWISE,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_transformers_has_its_effect_or_is_refused(kind):
    """A field of a new version of transformers has to be looked at, and put into one of the lists."""
    assert kind.does_otherwise is DO_OTHERWISE[kind]
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert fields - HAVE_EFFECT - set(DO_OTHERWISE[kind]) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_every_inherited_flag_that_is_done_otherwise_is_refused_with_its_remedy(kind):
    defaults, otherwise = list_defaults(kind), DO_OTHERWISE[kind]
    refuse_ignored(defaults, defaults, otherwise)
    for name, remedy in otherwise.items():
        if name not in defaults:  # of another version of transformers
            continue
        text = f"--{name.replace('_', '-')} other is not for this training: {remedy}."
        with pytest.raises(ValueError, match=re.escape(text)):
            refuse_ignored({**defaults, name: "other"}, defaults, otherwise)


# What is refused by another rule than the table's, or is not to be given twice.
OF_THE_COMMAND_LINE = [
    ("lr_scheduler_kwargs", '{"num_cycles": 2}'),
    ("train_sampling_strategy", "sequential"),
    ("hub_model_id", "tester/model"),
    ("hub_token", "hf_x"),
    ("do_train", "false"),
    ("do_predict", "true"),
    ("remove_unused_columns", "true"),
    ("optim_args", "momentum=0.9"),
    ("lr_scheduler_type", "linear"),
    ("warmup_steps", "0"),
    ("label_smoothing_factor", "0"),
    ("data_seed", "1"),
    ("neftune_noise_alpha", "5"),
    ("use_liger_kernel", "true"),
    ("label_names", "target"),
    ("average_tokens_across_devices", "false"),
    ("fp16_full_eval", "true"),
    ("include_for_metrics", "loss"),
    ("eval_accumulation_steps", "3"),
]


@pytest.mark.parametrize(
    ("kinds", "needed"),
    [(PRETRAINING, ()), (LINEAR_PROBE_KINDS, ("--model", "x")), (FINE_TUNING_KINDS, ("--model", "x"))],
)
@pytest.mark.parametrize(("name", "value"), OF_THE_COMMAND_LINE)
def test_the_command_line_refuses_what_does_nothing(kinds, needed, name, value, tmp_path):
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(ValueError, match=rf"{flag} .*(not for this training|changes nothing)"):
        parse_flags(kinds, [flag, value, "--output-dir", str(tmp_path), "--use-cpu", *needed])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["eval_steps", "eval_delay", "eval_on_start", "metric_for_best_model", "do_eval"])
def test_pretraining_measures_nothing_on_the_way_but_by_k_nn(name, tmp_path):
    value = {"metric_for_best_model": "loss"}.get(name, "1")
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} .* is not for this training"):
        parse_flags(PRETRAINING, [f"--{name}", value, "--output-dir", str(tmp_path), "--use-cpu"])


def test_a_default_that_is_what_is_done_may_be_given():
    refuse_given({"lr_scheduler_type": "cosine", "do_train": True}, PRETRAINING_DOES_OTHERWISE)
    refuse_given({"adam_beta1": 0.9}, PRETRAINING_DOES_OTHERWISE)
    with pytest.raises(ValueError, match=r"--adam-beta1 0\.9 is not for this training: it learns by SGD"):
        refuse_given({"adam_beta1": 0.9}, FINE_TUNING_DOES_OTHERWISE)


# As the installed transformers calls it: the older name is an alias of the newer one.
CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, name)
)


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        (SynCoTrainingArguments, {"save_strategy": "best"}, "give steps, epoch or no"),
        (SynCoTrainingArguments, {"optim": "sgd", "adam_beta1": 0.8}, "changes nothing of --optim sgd"),
        (SynCoTrainingArguments, {"optim_args": "a=1"}, "changes nothing of --optim adamw"),
        (FineTuningArguments, {"save_steps": 20}, "add --save-strategy steps"),
        (LinearProbeArguments, {"eval_steps": 20}, "add --eval-strategy steps"),
        (FineTuningArguments, {"metric_for_best_model": "top1"}, "without --load-best-model-at-end"),
        (SynCoTrainingArguments, {f"{CHECKPOINTING}_kwargs": {}}, f"without --{CHECKPOINTING.replace('_', '-')}"),
        (LinearProbeArguments, {CHECKPOINTING: True}, "the network is frozen"),
    ],
)
def test_flags_that_do_nothing_beside_others_are_refused(kind, values, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        kind(output_dir=str(tmp_path), use_cpu=True, **values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"num_train_epochs": 0}, "--num-train-epochs 0: give more than 0"),
        ({"num_train_epochs": -1}, "--num-train-epochs -1"),
        ({"max_steps": 0}, "--max-steps 0: give at least 1"),
        ({"max_steps": -5}, "--max-steps -5"),
        ({"weight_decay": -1.0}, "--weight-decay -1"),
        ({"warmup_epochs": -3.0}, "--warmup-epochs -3"),
        ({"lr_scheduler_type": "constant"}, "--warmup-epochs"),
        ({"warmup_steps": 100}, "--warmup-epochs"),
        ({"label_smoothing_factor": 0.5}, "label"),
        ({"data_seed": 3}, "--seed draws the order"),
        ({"auto_find_batch_size": True}, "lower --per-device-train-batch-size"),
        ({"push_to_hub": True}, "synco-hub publish"),
        ({"hub_model_id": "tester/model"}, "synco-hub publish"),
    ],
)
def test_every_training_refuses_them(kind, values, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        kind(output_dir=str(tmp_path), use_cpu=True, **values)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [LinearProbeArguments, FineTuningArguments])
@pytest.mark.parametrize("values", [{"momentum": 2.0}, {"optim": "adamw_torch"}, {"adam_beta1": 0.5}])
def test_heads_learn_by_sgd(kind, values, tmp_path):
    with pytest.raises(ValueError, match="momentum"):
        kind(output_dir=str(tmp_path), use_cpu=True, **values)


def test_what_has_its_effect_is_accepted(tmp_path):
    FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, momentum=0.0, weight_decay=0.0, num_train_epochs=0.5)
    LinearProbeArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=3, eval_strategy="no", warmup_epochs=0)
    FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, save_strategy="steps", save_steps=3, optim="sgd")
    SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, adam_beta1=0.8, lr_scheduler_type="cosine")
    SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim="rmsprop", optim_args="alpha=0.9")
    SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim="sgd", save_strategy="no", save_steps=3)


def test_several_processes_without_a_gpu_use_the_cpu(monkeypatch, caplog):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (choose_cpu_without_gpu(False), choose_cpu_without_gpu(True)) == (False, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose_cpu_without_gpu(False)
    assert "2 processes train together on the CPU" in caplog.text
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert not choose_cpu_without_gpu(False)


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_do_not_know_of_each_other_are_refused(kind, monkeypatch, tmp_path):
    # As if no launcher had said which of them this is.
    for name in ("LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were launched .* finds 1"):
        kind(output_dir=str(tmp_path))
    for said in ("1", ""):
        monkeypatch.setenv("WORLD_SIZE", said)
        refuse_separate_processes(1)


def test_bfloat16_is_refused_where_a_card_has_none_and_said_where_it_pretends(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr("trainers.refusals.is_torch_bf16_gpu_available", lambda: True)
    refuse_missing_bfloat16(use_cpu=False)
    assert "--bf16: Tesla T4 emulates bfloat16, slowly; --fp16 is what it is fast in" in caplog.text
    monkeypatch.setattr("trainers.refusals.is_torch_bf16_gpu_available", lambda: False)
    refuse_missing_bfloat16(use_cpu=True)
    with pytest.raises(ValueError, match="--bf16: Tesla T4 has no bfloat16: leave it out, or give --fp16"):
        refuse_missing_bfloat16(use_cpu=False)
