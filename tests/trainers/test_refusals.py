import dataclasses
import math
import re

import pytest
import torch

from trainers.classification.arguments import FineTuningArguments, LinearProbeArguments
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.refusals import (
    CLASSIFICATION_DOES_OTHERWISE,
    LOWEST,
    PRETRAINING_DOES_OTHERWISE,
    choose_cpu_without_gpu,
    refuse_ignored,
    refuse_impossible,
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
        ({"momentum_start": 1.5}, "--momentum-start 1.5: give at least 0 and at most 1"),
        ({"momentum": 2}, "--momentum 2: give at least 0 and at most 1"),
        ({"max_bad_fraction": 2}, "--max-bad-fraction 2: give at least 0 and at most 1"),
    ],
)
def test_lengths_and_shares(values, text):
    with pytest.raises(ValueError, match=text):
        refuse_impossible({**POSSIBLE, **values})
    refuse_impossible({"num_train_epochs": 0, "max_steps": 4})


@pytest.mark.parametrize(
    ("kind", "otherwise"),
    [
        (SynCoTrainingArguments, PRETRAINING_DOES_OTHERWISE),
        (LinearProbeArguments, CLASSIFICATION_DOES_OTHERWISE),
        (FineTuningArguments, CLASSIFICATION_DOES_OTHERWISE),
    ],
)
def test_every_inherited_flag_that_is_done_otherwise_is_refused_with_its_remedy(kind, otherwise):
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    refuse_ignored(defaults, defaults, otherwise)
    assert set(otherwise) <= set(defaults)
    for name, remedy in otherwise.items():
        text = f"--{name.replace('_', '-')} other is not for this training: {remedy}."
        with pytest.raises(ValueError, match=re.escape(text)):
            refuse_ignored({**defaults, name: "other"}, defaults, otherwise)


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
    SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim="sgd", adam_beta1=0.8)


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
