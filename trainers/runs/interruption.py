"""SIGTERM and Ctrl-C: finish the optimizer step, save, stop; all processes at the same step.

Schedulers such as Slurm send SIGTERM before they kill; give them `--signal=TERM@120` or the like, so that the step
and the checkpoint fit in.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# How long a worker outlives a SIGTERM, so that the step that needs its images can be finished.
WORKER_GRACE_SECONDS = 120


class InterruptionCallback(TrainerCallback):
    """Turns the first signal into "save and stop after this step"; a second one acts as it always did.

    With several processes each contributes whether it was told to stop to a sum that is awaited one step later. So
    all stop after the same step, however the signals arrive, and no step waits for the sum.

    Attributes:
        received: The signal that stopped the run, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._group: Any = None
        self._told: torch.Tensor | None = None
        self._pending: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen; before the workers are forked, so that none of them meets a signal unprepared."""
        self.received = None
        for number in SIGNALS:
            try:
                self._previous[number] = signal.signal(number, self._remember)
            except ValueError:  # only the main thread may listen; elsewhere the caller decides
                return
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # On the CPU: asking the device would make every step wait for it.
            self._group = dist.new_group(backend="gloo")

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, self._previous[self.received])
        logger.warning("%s: stopping after this step, with a checkpoint; again stops at once", self.received.name)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Save and stop if any process was told to; the Trainer saves after this."""
        if self._must_stop() and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
        return control

    def _must_stop(self) -> bool:
        if self._group is None:
            return self.received is not None
        stop = False
        if self._pending is not None:
            self._pending.wait()
            assert self._told is not None
            number = int(self._told)
            stop = number > 0
            if stop and self.received is None:
                self.received = signal.Signals(number)
        self._told = torch.tensor(int(self.received or 0))
        self._pending = dist.all_reduce(self._told, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        return stop

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen no more."""
        if self._pending is not None:
            self._pending.wait()
        self.stop_listening()

    def stop_listening(self) -> None:
        """Give the signals back to whoever had them; also after an error."""
        self._pending = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def ignore_signals_in_worker(init: Callable[[int], None] | None, worker_id: int) -> None:
    """In a worker process: leave signals that reached the whole group to the main process.

    A worker that dies at once would take the step, and so the checkpoint, with it. After a SIGTERM it stays for two
    minutes at most, also when the main process does not end it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))
    if init is not None:
        init(worker_id)
