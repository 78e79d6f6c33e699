"""What no training can do: impossible values, inherited flags without effect, processes that train alone."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import Any

import torch

logger = logging.getLogger(__name__)

# Lowest value and whether it may be reached; for all of them a number that is no number is refused too.
LOWEST: dict[str, tuple[float, bool]] = {
    "per_device_train_batch_size": (1, True),
    "per_device_eval_batch_size": (1, True),
    "gradient_accumulation_steps": (1, True),
    "dataloader_num_workers": (0, True),
    "base_learning_rate": (0, True),
    "learning_rate": (0, True),
    "learning_rate_start": (0, True),
    "learning_rate_end": (0, True),
    "weight_decay": (0, True),
    "momentum": (0, True),
    "max_grad_norm": (0, True),
    "warmup_epochs": (0, True),
    "synthetic_warmup_epochs": (0, True),
    "synthetic_cooldown_epochs": (0, True),
    "synthetic_last_epoch": (0, True),
    "momentum_start": (0, True),
    "max_bad_fraction": (0, True),
    "knn_every_epochs": (0, False),
    "save_steps": (0, False),
}
HIGHEST = {"momentum": 1.0, "momentum_start": 1.0, "max_bad_fraction": 1.0}

_PUBLISH = "publish the finished run with `synco-hub publish`"
_MEASURE = "give --knn-every-epochs to measure on the way"
_LAST_STEP = "the last step is the result, since no labels say which is best"
_ORDER = "--seed draws the order, another one in each epoch"
# Flags of `transformers.TrainingArguments`, which every training here inherits and does otherwise.
_DONE_OTHERWISE = {
    "warmup_steps": "give --warmup-epochs",
    "do_predict": "measure the finished run with `synco-hub evaluate`",
    "push_to_hub": _PUBLISH,
    "hub_model_id": _PUBLISH,
    "hub_private_repo": _PUBLISH,
    "hub_always_push": _PUBLISH,
    "hub_strategy": _PUBLISH,
    "hub_revision": _PUBLISH,
    "auto_find_batch_size": "schedules and order count in the batch; lower --per-device-train-batch-size and raise "
    "--gradient-accumulation-steps",
    "data_seed": "--seed draws the order too",
    "train_sampling_strategy": _ORDER,
}
PRETRAINING_DOES_OTHERWISE = {
    **_DONE_OTHERWISE,
    "lr_scheduler_type": "the learning rate warms up and follows a cosine (7.4), see --warmup-epochs and "
    "--learning-rate-end",
    "lr_scheduler_kwargs": "the learning rate warms up and follows a cosine (7.4), see --warmup-epochs and "
    "--learning-rate-end",
    "eval_strategy": _MEASURE,
    "eval_steps": _MEASURE,
    "eval_delay": _MEASURE,
    "eval_on_start": _MEASURE,
    "do_eval": _MEASURE,
    "load_best_model_at_end": _LAST_STEP,
    "metric_for_best_model": _LAST_STEP,
    "greater_is_better": _LAST_STEP,
    "dataloader_drop_last": "BatchNorm and the schedules need full batches",
    "remove_unused_columns": "the views are no columns of the model",
    "save_only_model": "a run could not be continued from such a checkpoint",
    "ignore_data_skip": "a continued run would see other images than one that was not stopped",
    "label_smoothing_factor": "pretraining has no labels",
}
_SCHEDULE = "the rate warms up and follows a cosine (7.6), see --warmup-epochs"
_SGD = "the heads learn by SGD (7.5, 7.6), see --momentum and --weight-decay"
_WHOLE_SPLIT = "the test split is measured as a whole, see --eval-strategy"
CLASSIFICATION_DOES_OTHERWISE = {
    **_DONE_OTHERWISE,
    "lr_scheduler_type": _SCHEDULE,
    "lr_scheduler_kwargs": _SCHEDULE,
    "optim": _SGD,
    "optim_args": _SGD,
    "optim_target_modules": _SGD,
    "adam_beta1": _SGD,
    "adam_beta2": _SGD,
    "adam_epsilon": _SGD,
    "label_smoothing_factor": "give --label-smoothing",
    "remove_unused_columns": "targets are no columns of the model",
    "prediction_loss_only": _WHOLE_SPLIT,
    "batch_eval_metrics": _WHOLE_SPLIT,
    "eval_accumulation_steps": _WHOLE_SPLIT,
}

# Where launchers say how many processes they started.
_LAUNCHED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE")


def refuse_impossible(values: Mapping[str, Any]) -> None:
    """Refuses values that no run can have."""
    for name, (lowest, reached) in LOWEST.items():
        value = values.get(name)
        if value is None or isinstance(value, str):
            continue
        highest = HIGHEST.get(name, math.inf)
        within = lowest <= value <= highest and math.isfinite(value) and (reached or value > lowest)
        if not within:
            rule = f"{'at least' if reached else 'more than'} {lowest:g}"
            rule += f" and at most {highest:g}" if name in HIGHEST else ""
            raise ValueError(f"--{name.replace('_', '-')} {value:g}: give {rule}.")
    epochs, steps = float(values["num_train_epochs"]), values["max_steps"]
    if steps == 0 or steps < -1:
        raise ValueError(f"--max-steps {steps}: give at least 1, or leave it out to count in --num-train-epochs.")
    if steps == -1 and not 0 < epochs < math.inf:
        raise ValueError(f"--num-train-epochs {epochs:g}: give more than 0, or --max-steps.")


def refuse_ignored(values: Mapping[str, Any], defaults: Mapping[str, Any], otherwise: Mapping[str, str]) -> None:
    """Refuses inherited flags that a training does otherwise."""
    for name, remedy in otherwise.items():
        if name in defaults and values[name] != defaults[name]:
            raise ValueError(f"--{name.replace('_', '-')} {values[name]} is not for this training: {remedy}.")


def count_launched_processes() -> int:
    """How many processes a launcher says it started: 1 without a launcher."""
    said = (os.environ.get(name, "") for name in _LAUNCHED)
    return next((int(number) for number in said if number.isdecimal()), 1)


def choose_cpu_without_gpu(use_cpu: bool) -> bool:
    """Whether to train on the CPU: several processes find each other on an accelerator, or when told to use none."""
    launched = count_launched_processes()
    if use_cpu or launched == 1 or torch.accelerator.is_available():
        return use_cpu
    if os.environ.get("RANK", "0") == "0":
        logger.warning("no GPU is visible: %d processes train together on the CPU", launched)
    return True


def refuse_separate_processes(world_size: int) -> None:
    """Refuses a process of several that would train alone, into the same folder as the others."""
    launched = count_launched_processes()
    if launched != world_size:
        raise ValueError(
            f"{launched} processes were launched (WORLD_SIZE), and this one finds {world_size}, so each would train "
            "by itself: launch them by --num-processes or torchrun, add --use-cpu where there is no GPU for each, or "
            "unset WORLD_SIZE for a single process."
        )
