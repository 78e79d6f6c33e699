"""`CheckedTrainingArguments`: `transformers.TrainingArguments` of which each has its effect here or is refused."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from synco_hub.errors import describe_batch
from synco_hub.settings import setting
from trainers.refusals import (
    choose_cpu_without_gpu,
    list_defaults,
    refuse_given,
    refuse_ignored,
    refuse_impossible,
    refuse_missing_bfloat16,
    refuse_separate_processes,
)
from trainers.schedules import scaled_learning_rate
from trainers.settings import toggle

logger = logging.getLogger(__name__)


@dataclass
class CheckedTrainingArguments(TrainingArguments):
    """What pretraining, probing and fine-tuning hold to alike; their own fields stand in the subclasses.

    Attributes:
        does_otherwise: Fields without effect in this training, with what to give instead.
        given_learning_rate: The peak rate that was given, None where it is the scaled base rate.
        asks_for_gpu: Whether `use_cpu` was left out or false.
        given_flags: The command line that made this, from which the run can be resumed; empty in Python.
    """

    does_otherwise: ClassVar[Mapping[str, str]] = {}
    given_flags: ClassVar[tuple[str, ...]] = ()

    do_train: bool = toggle(True, "On: it is what this command does.")
    lr_scheduler_type: str = setting("cosine", "Always: linear warm-up, then a cosine.")

    def __post_init__(self) -> None:
        defaults = list_defaults(type(self))
        refuse_impossible(vars(self))
        refuse_ignored(vars(self), defaults, self.does_otherwise)
        self._refuse_idle(defaults)
        self.asks_for_gpu = not self.use_cpu
        self.use_cpu = choose_cpu_without_gpu(self.use_cpu)
        if self.bf16:
            # Without a GPU transformers wants to be told that bfloat16 is the CPU's.
            self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
            refuse_missing_bfloat16(self.use_cpu)
        self.given_learning_rate = self.learning_rate
        self.learning_rate = 0.0 if self.learning_rate is None else self.learning_rate
        super().__post_init__()  # type: ignore[no-untyped-call]
        refuse_separate_processes(self.world_size)
        # torch's DataParallel would give each replica queues and heads of its own; several GPUs, several processes.
        self._n_gpu = min(self._n_gpu, 1)
        # Pinned memory speeds the way to an accelerator; without one torch warns about it.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type == "cuda"
        # From pinned memory a copy need not hold up the step before it.
        loading = cast(AcceleratorConfig, self.accelerator_config)
        loading.non_blocking = loading.non_blocking or self.dataloader_pin_memory
        if self.given_learning_rate is None:
            self.learning_rate = self.choose_learning_rate()
        self._say_which_of_two_holds(defaults)
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise ValueError(
                f"save_total_limit={self.save_total_limit} would delete the only complete checkpoint while the next "
                "is written: give at least 2, or write none at all (--save-strategy no)."
            )

    def fit_to(self, num_images: int) -> None:
        """Let records and the scaled rate say how many batches a step really has: at most those of an epoch."""
        batches = num_images / (self.per_device_train_batch_size * self.world_size)
        batches = max(math.floor(batches) if self.dataloader_drop_last else math.ceil(batches), 1)
        said = ""
        if self.gradient_accumulation_steps > batches:
            said = (
                f"--gradient-accumulation-steps {self.gradient_accumulation_steps}: an epoch has {batches} batches, "
            )
            said += "so a step has these, and the learning rate is scaled by their images."
            self.gradient_accumulation_steps = batches
        elif self.global_batch_size > 2 * num_images:
            said = f"a step has {num_images} images at most, and the learning rate is scaled for "
            said += f"{self.global_batch_size}: lower --per-device-train-batch-size."
        if said and self.process_index == 0:
            logger.warning("%s", said)
        if self.given_learning_rate is None:
            self.learning_rate = self.choose_learning_rate()

    def describe_load(self, network: Any, is_frozen: bool, measures: bool) -> tuple[str, str]:
        """What a step, or a measurement on the way, asked of the device's memory, and what would ask for less."""
        config = getattr(network, "config", None)
        name = getattr(config, "backbone", None) or getattr(config, "model_type", None) or type(network).__name__
        size = getattr(config, "image_size", None)
        if measures:
            batch = self.per_device_eval_batch_size
            remedy = f"give --per-device-eval-batch-size {batch // 2}" if batch > 1 else "give smaller images"
            return describe_batch(batch, size, name, "measuring "), remedy
        batch, remedies = self.per_device_train_batch_size, []
        if batch > 1:
            steps = 2 * self.gradient_accumulation_steps
            half = f"--per-device-train-batch-size {batch // 2} --gradient-accumulation-steps {steps}"
            remedies.append(f"{half}, which are as many images a step" if batch % 2 == 0 else half)
        checkpoints = getattr(self, "activation_checkpointing", False) or self.gradient_checkpointing
        if not (is_frozen or checkpoints):
            remedies.append("--gradient-checkpointing, which keeps less and computes more")
        return describe_batch(
            batch, size, name, "training "
        ), f"give {', or '.join(remedies or ['a smaller network'])}"

    def choose_learning_rate(self) -> float:
        """The peak rate where none is given: the base rate, scaled by the images of a step."""
        base = getattr(self, "base_learning_rate", 0.0)
        return scaled_learning_rate(base, self.global_batch_size)

    def refuse_given(self, given: Mapping[str, Any]) -> None:
        """Refuse flags of a command line that say, by their very default, what is not done here."""
        refuse_given(given, self.does_otherwise)
        if "use_cpu" in given and self.asks_for_gpu and self.device.type == "cpu":
            logger.warning("--use-cpu false: no GPU is visible, so this run trains on the CPU")

    @property
    def global_batch_size(self) -> int:
        """Images per optimizer step: micro-batch × processes × accumulation steps."""
        return self.per_device_train_batch_size * self.world_size * self.gradient_accumulation_steps

    def _refuse_idle(self, defaults: Mapping[str, Any]) -> None:
        """Refuses flags that do nothing without another one, which was not given."""
        given = vars(self)  # transformers 5.17 knows gradient_checkpointing alone
        checkpointing = given.get("activation_checkpointing") or self.gradient_checkpointing
        keeps_best = self.load_best_model_at_end or self.save_strategy == "best"
        for name, needed, there in (
            ("activation_checkpointing_kwargs", "--activation-checkpointing", checkpointing),
            ("gradient_checkpointing_kwargs", "--gradient-checkpointing", checkpointing),
            ("metric_for_best_model", "--load-best-model-at-end or --save-strategy best", keeps_best),
            ("greater_is_better", "--load-best-model-at-end or --save-strategy best", keeps_best),
        ):
            if given.get(name) is not None and not there:
                raise ValueError(
                    f"--{name.replace('_', '-')} does nothing without {needed}: add that, or leave it out."
                )
        # A strategy other than the default was asked for, so it is known to count something else.
        for what in ("save", "eval"):
            strategy, steps = f"{what}_strategy", f"{what}_steps"
            counts_epochs = getattr(self, strategy) == defaults[strategy] == "epoch"
            if counts_epochs and getattr(self, steps) != defaults[steps]:
                raise ValueError(
                    f"--{what}-steps {getattr(self, steps)} does nothing with --{what}-strategy epoch: add "
                    f"--{what}-strategy steps, or leave it out."
                )

    def _say_which_of_two_holds(self, defaults: Mapping[str, Any]) -> None:
        """Warn of a flag that another one beside it makes idle, and of a precision that the device has not."""
        said = []
        if self.max_steps > 0 and self.num_train_epochs != defaults["num_train_epochs"]:
            said.append(
                f"--max-steps {self.max_steps} decides how long the run is, not --num-train-epochs "
                f"{self.num_train_epochs:g}"
            )
        base = getattr(self, "base_learning_rate", None)
        if self.given_learning_rate is not None and base != defaults.get("base_learning_rate"):
            said.append(
                f"--learning-rate {self.given_learning_rate:g} is used as it is, not --base-learning-rate {base:g}"
            )
        if self.fp16 and self.device.type == "cpu":
            said.append("--fp16 needs a GPU: on the CPU this run computes in fp32 (--bf16 works there)")
            self.fp16, self.mixed_precision = False, "no"
        if os.environ.get("RANK", "0") == "0":
            for line in said:
                logger.warning("%s", line)
