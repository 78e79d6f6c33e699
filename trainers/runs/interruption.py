"""SIGTERM and Ctrl-C: finish the optimizer step, save, stop; all processes at the same step.

Schedulers such as Slurm send SIGTERM before they kill; give them `--signal=TERM@120` or the like, so that the step
and the checkpoint fit in.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# `timeout` and launchers of several processes send a signal to the process and to its group: both are one request.
SAME_REQUEST_SECONDS = 2.0


class InterruptionCallback(TrainerCallback):
    """Turns the first signal into "save and stop after this step"; one that comes later acts as it always did.

    With several processes each contributes whether it was told to stop to a sum that is awaited one step later. So
    all stop after the same step, however the signals arrive, and no step waits for the sum.

    Attributes:
        received: The signal that stopped the run, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._received_at = -math.inf
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
        now, heard = time.monotonic(), signal.Signals(number)
        if self.received is None:
            self.received, self._received_at = heard, now
            logger.warning("%s: stopping after this step, with a checkpoint; again stops at once", heard.name)
        elif now - self._received_at >= SAME_REQUEST_SECONDS:
            signal.signal(number, self._previous[heard])
            os.kill(os.getpid(), number)

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
