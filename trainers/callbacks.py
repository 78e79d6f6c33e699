"""What happens around an optimizer step: target, gradient norm, epoch, progress bar."""

from __future__ import annotations

import math
import sys
from typing import Any, Protocol

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_model import SynCoForPreTraining
from trainers.schedules import target_momentum

# In a file every state of the bar is a line more.
SECONDS_BETWEEN_LINES = 30.0


class Pretrainer(Protocol):
    """What these callbacks ask of `SynCoTrainer`."""

    accelerator: Any
    args: SynCoTrainingArguments

    @property
    def unwrapped_model(self) -> SynCoForPreTraining:
        """The model without wrappers."""
        ...

    def remember_gradient_norm(self) -> None:
        """Take the norm of the accumulated gradients."""
        ...


class SetsEpoch(Protocol):
    """A sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int, /) -> None:
        """Say which epoch begins."""
        ...


class EpochSampled(Protocol):
    """A trainer with such a sampler, once it has one."""

    @property
    def epoch_sampler(self) -> SetsEpoch | None:
        """The sampler."""
        ...


class TargetUpdateCallback(TrainerCallback):
    """Moves the target network after every optimizer step with m((k + 1) / K).

    The paper updates before the target's forward of step k + 1 with the same momentum, which is the same thing; doing
    it here makes the checkpoint of a step hold the target that belongs to it.
    """

    def __init__(self, trainer: Pretrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """`state.global_step` still counts the steps before this one; fp16 may have skipped it."""
        if self.trainer.accelerator.optimizer_step_was_skipped:
            return
        momentum = target_momentum(state.global_step + 1, state.max_steps, self.trainer.args.momentum_start)
        self.trainer.unwrapped_model.update_target_network(momentum)


class GradientNormCallback(TrainerCallback):
    """Takes the gradient norm of the steps that will be logged, and of no other."""

    def __init__(self, trainer: Pretrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs before the step, when the gradients of the whole accumulated batch are there."""
        step = state.global_step + 1
        if step % max(int(state.logging_steps), 1) == 0 or (args.logging_first_step and step == 1):
            self.trainer.remember_gradient_norm()


class EpochCallback(TrainerCallback):
    """Tells the sampler which epoch begins, so that the order is another one in each and the same after a resume."""

    def __init__(self, trainer: EpochSampled) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """`state.epoch` is fractional within an epoch."""
        if self.trainer.epoch_sampler is not None:
            self.trainer.epoch_sampler.set_epoch(math.floor((state.epoch or 0.0) + 1e-9))


class ImageProgressCallback(ProgressCallback):
    """The Trainer's bar counted in images: it shows images per second and the remaining time."""

    training_bar: Any

    def __init__(self, trainer: Pretrainer) -> None:
        super().__init__()
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A resumed run starts where it was, so that its rate is that of its own images."""
        if state.is_world_process_zero:
            images = self.trainer.args.global_batch_size
            self.training_bar = tqdm(
                total=state.max_steps * images,
                initial=state.global_step * images,
                unit=" images",
                dynamic_ncols=True,
                mininterval=0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES,
            )
        self.current_step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The images of an optimizer step over all processes."""
        if state.is_world_process_zero:
            self.training_bar.update((state.global_step - self.current_step) * self.trainer.args.global_batch_size)
            self.current_step = state.global_step
