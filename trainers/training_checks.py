"""Values of training flags that are impossible, and inherited flags that would be ignored or break a promise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Lowest value and whether it may be reached; for all of them a number that is no number is refused too.
LOWEST: dict[str, tuple[float, bool]] = {
    "per_device_train_batch_size": (1, True),
    "gradient_accumulation_steps": (1, True),
    "dataloader_num_workers": (0, True),
    "base_learning_rate": (0, True),
    "learning_rate": (0, True),
    "learning_rate_start": (0, True),
    "learning_rate_end": (0, True),
    "weight_decay": (0, True),
    "max_grad_norm": (0, True),
    "warmup_epochs": (0, True),
    "synthetic_warmup_epochs": (0, True),
    "synthetic_cooldown_epochs": (0, True),
    "momentum_start": (0, True),
    "max_bad_fraction": (0, True),
    "knn_every_epochs": (0, False),
    "save_steps": (0, False),
}
HIGHEST = {"momentum_start": 1.0, "max_bad_fraction": 1.0}

# Flags of `transformers.TrainingArguments`, which this training inherits and does otherwise.
OTHERWISE = {
    "lr_scheduler_type": "the learning rate warms up and follows a cosine (7.4), see --warmup-epochs and "
    "--learning-rate-end",
    "warmup_steps": "give --warmup-epochs",
    "resume_from_checkpoint": "give --resume, which finds the newest whole checkpoint of --output-dir",
    "eval_strategy": "give --knn-every-epochs to measure on the way",
    "do_eval": "give --knn-every-epochs to measure on the way",
    "do_predict": "measure the finished run with `synco-hub evaluate`",
    "load_best_model_at_end": "the last step is the result, since no labels say which is best",
    "push_to_hub": "publish the finished run with `synco-hub publish`",
    "dataloader_drop_last": "BatchNorm and the schedules need full batches",
    "remove_unused_columns": "the views are no columns of the model",
    "save_only_model": "a run could not be continued from such a checkpoint",
    "ignore_data_skip": "a continued run would see other images than one that was not stopped",
    "auto_find_batch_size": "schedules and order count in the batch; lower --per-device-train-batch-size and raise "
    "--gradient-accumulation-steps",
    "data_seed": "--seed draws the order too",
    "label_smoothing_factor": "pretraining has no labels",
}


def refuse_impossible(values: Mapping[str, Any]) -> None:
    """Refuses values that no run can have.

    Args:
        values: Of the training arguments, by name; None is what the default decides.

    Raises:
        ValueError: Naming the first such flag, its value and the rule.
    """
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


def refuse_ignored(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses inherited flags that this training does otherwise.

    Args:
        values: Of the training arguments as they were given, by name.
        defaults: What stands there when nothing was given.

    Raises:
        ValueError: Naming the first such flag, and what to do.
    """
    for name, remedy in OTHERWISE.items():
        if name in defaults and values[name] != defaults[name]:
            raise ValueError(f"--{name.replace('_', '-')} {values[name]} is not for this training: {remedy}.")
