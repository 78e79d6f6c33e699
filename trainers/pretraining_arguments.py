"""`SynCoTrainingArguments`: how to pretrain."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, cast

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from synco_hub.data.views.transform import resolve_place
from trainers.refusals import (
    PRETRAINING_DOES_OTHERWISE,
    choose_cpu_without_gpu,
    refuse_ignored,
    refuse_impossible,
    refuse_separate_processes,
)
from trainers.schedules import scaled_learning_rate
from trainers.settings import PretrainingOptions, check_schedules


@dataclass
class SynCoTrainingArguments(PretrainingOptions, TrainingArguments):  # type: ignore[misc]
    """How to pretrain (paper section 7.4); where `TrainingArguments` silently contradicts the paper, the paper wins.

    The learning rate is `base_learning_rate` × (micro-batch × processes × accumulation) / 512 unless
    `learning_rate` is given, which is used as it is.
    """

    _argument_group_name: ClassVar[str] = "training (section 7.4; the rest are transformers.TrainingArguments)"

    def __post_init__(self) -> None:
        check_schedules(self)
        refuse_impossible(vars(self))
        refuse_ignored(vars(self), {f.name: f.default for f in dataclasses.fields(self)}, PRETRAINING_DOES_OTHERWISE)
        self.use_cpu = choose_cpu_without_gpu(self.use_cpu)
        if self.disable_tqdm is None:
            # The Trainer would hide the bar because its library was told to write no warnings.
            self.disable_tqdm = False
        given = self.learning_rate
        self.learning_rate = 0.0 if given is None else given
        super().__post_init__()  # type: ignore[no-untyped-call]
        refuse_separate_processes(self.world_size)
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
