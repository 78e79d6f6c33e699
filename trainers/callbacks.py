"""What happens around optimizer steps: target update, epochs, progress, and whether the network learns."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_model import PretrainingOutput, SynCoForPreTraining
from trainers.schedules import target_momentum

logger = logging.getLogger(__name__)

# In a file every state of the bar is a line more.
_SECONDS_BETWEEN_LINES = 30.0


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
        logged = step % max(int(state.logging_steps), 1) == 0 or (args.logging_first_step and step == 1)
        if logged or is_last_step(args, state, step):
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


class TrainBeginCallback(TrainerCallback):
    """Does things when the optimizer is there, with the state that it goes on from."""

    def __init__(self, *works: Callable[[], None]) -> None:
        self.works = list(works)  # the Trainer takes each kind of callback once only

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """On the main process, which writes."""
        if state.is_world_process_zero:
            for work in self.works:
                work()


class ContinuedTensorBoardCallback(TensorBoardCallback):
    """A resumed run goes on in the folder of its first part, in place of the lines after its checkpoint."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The Trainer would begin a folder with the time of day."""
        earlier = sorted(Path(str(args.output_dir)).glob("runs/*"), key=lambda path: path.stat().st_mtime)
        if state.is_world_process_zero and state.global_step > 0 and earlier and self.logging_dir is None:
            self.logging_dir = str(earlier[-1])
            self.tb_writer = self._SummaryWriter(log_dir=self.logging_dir, purge_step=state.global_step + 1)
        super().on_train_begin(args, state, control, **kwargs)  # type: ignore[no-untyped-call]


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
                mininterval=0.1 if sys.stderr.isatty() else _SECONDS_BETWEEN_LINES,
            )
        self.current_step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The images of an optimizer step over all processes."""
        if state.is_world_process_zero:
            self.training_bar.update((state.global_step - self.current_step) * self.trainer.args.global_batch_size)
            self.current_step = state.global_step


class LastLogCallback(TrainerCallback):
    """Logs the last step of a run, however few it has, so that no run ends without a line."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """The Trainer logs no step twice."""
        if is_last_step(args, state):
            control.should_log = True
        return control


def is_last_step(args: TrainingArguments, state: TrainerState, step: int | None = None) -> bool:
    """Whether this is the step after which the run ends with a line in its log."""
    return (state.global_step if step is None else step) >= state.max_steps and args.logging_strategy != "no"


# A loss this close to the one of a guess, relative, is a guess.
_LOSS_TOLERANCE = 0.01
# Something counts as stuck when it stays so for as long as this many steps at the full learning rate.
PATIENCE = 250.0
_ADVICE = "Look at the views, the batch and the learning rate, which has come to %.3g."


def compute_chance_loss(num_negatives: float, num_directions: int = 2) -> float:
    """The loss when the positive looks like every negative: ln(K + 1) for each direction."""
    return num_directions * math.log(num_negatives + 1)


class CollapseCallback(TrainerCallback):
    """Warns once of each sign of collapse.

    Patience is counted in what the network could learn: a step at a hundredth of the peak rate is a hundredth of a
    step, so a warm-up from zero proves nothing, and it does not matter how often a run logs.
    """

    threshold = 0.05

    def __init__(self, queue_size: int | None = None) -> None:
        self.queue_size = queue_size
        self.warned: set[str] = set()
        self._stuck_since: dict[str, float] = {}
        self._learnt = 0.0
        self._last_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count a resumed run from where it goes on, and say what the loss is to be read against."""
        self._last_step = state.global_step
        if self.queue_size is not None and state.is_world_process_zero:
            logger.warning(
                "The loss is the sum of two directions, each the logarithm of a share among the right key and all "
                "negatives: guessing has 2·ln(1 + %d) = %.2f, and more while synthetic negatives are added; it is "
                "logged as loss_of_guessing.",
                *(self.queue_size, compute_chance_loss(self.queue_size)),
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """`feature_std` is 1 for features spread over the sphere and 0 for a single point."""
        logs: Mapping[str, float] = kwargs.get("logs") or {}
        rate, before = logs.get("learning_rate", 0.0), self._learnt
        if rate > 0:
            self._learnt += (state.global_step - self._last_step) * rate / args.learning_rate
        self._last_step = state.global_step
        spread = logs.get("feature_std")
        if spread is not None and spread < self.threshold:
            what = f"features are collapsing: feature_std={spread:.4f} is below {self.threshold:.2f}"
            self._warn("spread", state, what, rate)
        if self.queue_size is None or "contrast_accuracy" not in logs:
            return
        negatives = self.queue_size + logs.get("num_synthetic", 0.0)
        accuracy = logs["contrast_accuracy"]
        if self._stuck("accuracy", accuracy <= 2 / (negatives + 1), before):
            what = f"contrast accuracy is stuck at {accuracy:.4f}: a guess finds as many"
            self._warn("accuracy", state, what, rate)
        guess = logs.get("loss_of_guessing", compute_chance_loss(negatives))
        if self._stuck("loss", abs(logs["loss"] - guess) <= _LOSS_TOLERANCE * guess, before):
            what = f"the loss stays at {logs['loss']:.3f}, and a guess has {guess:.3f}"
            self._warn("loss", state, what, rate)

    def _stuck(self, name: str, bad: bool, before: float) -> bool:
        """Whether something has been bad for long; ``before`` is what was learnt before this line's steps."""
        if not bad:
            self._stuck_since.pop(name, None)
            return False
        return self._learnt - self._stuck_since.setdefault(name, before) >= PATIENCE

    def _warn(self, name: str, state: TrainerState, what: str, rate: float) -> None:
        if name not in self.warned:
            self.warned.add(name)
            logger.warning("After step %d %s. %s", state.global_step, what, _ADVICE % rate)


class TrainingMonitor:
    """Accumulates the outputs of micro-batches without synchronising the device; one transfer per logging step.

    It also remembers the first step whose loss was not finite.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._images = 0
        self._started = time.perf_counter()
        self._first_bad_step: Tensor | None = None

    def update(self, output: PretrainingOutput, num_images: int, step: int) -> None:
        """Add one micro-batch."""
        assert output.loss is not None
        loss = output.loss.detach()
        measured = {"contrast_accuracy": output.contrast_accuracy, "feature_std": output.feature_std}
        for name, value in measured.items():
            if value is not None:
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        if self._first_bad_step is None:
            self._first_bad_step = torch.full_like(loss, -1.0)
        is_first = ~torch.isfinite(loss) & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(is_first, torch.full_like(loss, float(step)), self._first_bad_step)
        self._count += 1
        self._images += num_images

    def first_bad_step(self) -> int | None:
        """The first optimizer step with a loss that is NaN or infinite, or None; waits for the device."""
        if self._first_bad_step is None:
            return None
        step = int(self._first_bad_step.item())
        return step if step >= 0 else None

    def collect(self, num_processes: int = 1) -> dict[str, float]:
        """Means since the last call, and images per second over all processes; waits for the device."""
        now = time.perf_counter()
        report = {name: float(total.item()) / max(self._count, 1) for name, total in self._sums.items()}
        report["images_per_second"] = round(self._images * num_processes / max(now - self._started, 1e-9), 2)
        self._sums, self._count, self._images, self._started = {}, 0, 0, now
        return report


def compute_gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """ℓ2 norm of all gradients together, on their device, in a few fused calls. Shape: ()."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
