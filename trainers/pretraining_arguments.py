"""`SynCoTrainingArguments`: how to pretrain, and the values and inherited flags that it refuses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from synco_hub.data.views.transform import resolve_place
from trainers.schedules import scaled_learning_rate
from trainers.settings import PretrainingOptions

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
    "resume_from_checkpoint": "give --resume, which finds the newest complete checkpoint of --output-dir",
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


def refuse_ignored(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses inherited flags that this training does otherwise."""
    for name, remedy in OTHERWISE.items():
        if name in defaults and values[name] != defaults[name]:
            raise ValueError(f"--{name.replace('_', '-')} {values[name]} is not for this training: {remedy}.")


@dataclass
class SynCoTrainingArguments(PretrainingOptions, TrainingArguments):  # type: ignore[misc]
    """How to pretrain (paper section 7.4); where `TrainingArguments` silently contradicts the paper, the paper wins.

    The learning rate is `base_learning_rate` × (micro-batch × processes × accumulation) / 512 unless
    `learning_rate` is given, which is used as it is.
    """

    _argument_group_name: ClassVar[str] = "training (section 7.4; the rest are transformers.TrainingArguments)"

    def __post_init__(self) -> None:
        refuse_impossible(vars(self))
        refuse_ignored(vars(self), {f.name: f.default for f in dataclasses.fields(self)})
        if self.disable_tqdm is None:
            # The Trainer would hide the bar because its library was told to write no warnings.
            self.disable_tqdm = False
        given = self.learning_rate
        self.learning_rate = 0.0 if given is None else given
        super().__post_init__()  # type: ignore[no-untyped-call]
        # torch's DataParallel would give each replica its own copy of the queues; several GPUs take several processes.
        self._n_gpu = min(self._n_gpu, 1)
        # Pinned memory speeds the way to an accelerator; without one torch warns about it.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type == "cuda"
        # From pinned memory a copy need not hold up the step before it.
        loading = cast(AcceleratorConfig, self.accelerator_config)
        loading.non_blocking = loading.non_blocking or self.dataloader_pin_memory
        self.augment_on = resolve_place(self.augment_on, self.device.type)
        if given is None:
            self.learning_rate = scaled_learning_rate(self.base_learning_rate, self.global_batch_size)
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise ValueError(
                f"save_total_limit={self.save_total_limit} would delete the only complete checkpoint while the next "
                "is written: give at least 2, or write none at all (--save-strategy no)."
            )

    @property
    def global_batch_size(self) -> int:
        """Images per optimizer step: micro-batch × processes × accumulation steps."""
        return self.per_device_train_batch_size * self.world_size * self.gradient_accumulation_steps

    def count_warmup_steps(self, total_steps: int, steps_per_epoch: float) -> int:
        """Optimizer steps of the learning-rate warm-up: 40 of 300 epochs, or as given."""
        if self.warmup_epochs is None:
            return round(total_steps * 40 / 300)
        return round(self.warmup_epochs * steps_per_epoch)
