import dataclasses
import math
import re

import pytest

from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.training_checks import LOWEST, OTHERWISE, refuse_ignored, refuse_impossible

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
        ({"max_bad_fraction": 2}, "--max-bad-fraction 2: give at least 0 and at most 1"),
    ],
)
def test_lengths_and_shares(values, text):
    with pytest.raises(ValueError, match=text):
        refuse_impossible({**POSSIBLE, **values})
    refuse_impossible({"num_train_epochs": 0, "max_steps": 4})


def test_every_inherited_flag_that_is_done_otherwise_is_refused_with_its_remedy(tmp_path):
    defaults = {field.name: field.default for field in dataclasses.fields(SynCoTrainingArguments)}
    refuse_ignored(defaults, defaults)
    assert set(OTHERWISE) <= set(defaults)
    for name, remedy in OTHERWISE.items():
        text = f"--{name.replace('_', '-')} other is not for this training: {remedy}."
        with pytest.raises(ValueError, match=re.escape(text)):
            refuse_ignored({**defaults, name: "other"}, defaults)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"lr_scheduler_type": "constant"}, "--warmup-epochs"),
        ({"resume_from_checkpoint": "checkpoint-3"}, "--resume,"),
        ({"dataloader_drop_last": False}, "full batches"),
        ({"save_only_model": True}, "could not be continued"),
        ({"per_device_train_batch_size": 0}, "--per-device-train-batch-size 0: give at least 1"),
        ({"knn_every_epochs": 0}, "--knn-every-epochs 0: give more than 0"),
        ({"learning_rate": math.nan}, "--learning-rate nan"),
    ],
)
def test_the_arguments_refuse_them(values, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **values)
    SynCoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, lr_scheduler_type="linear", learning_rate=0.0)
