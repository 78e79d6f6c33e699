"""`--torch-compile`: every network is compiled once for itself, a loss that changes on the way before the first step.

transformers compiles the model as a whole. Its graph is then another one, to be compiled for minutes in the middle of
a run, when synthetic negatives begin and end and at a last, smaller batch; and the names of its weights change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)


def compile_options(args: TrainingArguments) -> dict[str, Any]:
    """What the flags say to `torch.compile`."""
    return {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode}


def compile_in_place(trainer: Trainer, network: nn.Module, prepare: Callable[[], None] | None = None) -> None:
    """With `--torch-compile` let a network compile itself when it is first called; the Trainer compiles nothing then.

    `prepare` compiles what else there is; it is called before the first step, when weights and device are set.
    """
    if not trainer.args.torch_compile:
        return
    trainer.accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend="no")
    network.compile(**compile_options(trainer.args))  # type: ignore[no-untyped-call]
    trainer.add_callback(CompilationCallback(prepare))


def expect_other_batch_sizes(images: Tensor) -> None:
    """Let what is compiled for this batch hold for a smaller last one. Shape: (batch, ...)."""
    torch._dynamo.maybe_mark_dynamic(images, 0)  # type: ignore[attr-defined]


def expect_other_lengths(tokens: Tensor) -> None:
    """Let what is compiled for these tokens hold for any number of them. Shape: (batch, tokens, dim)."""
    torch._dynamo.maybe_mark_dynamic(tokens, 1)  # type: ignore[attr-defined]


class CompilationCallback(TrainerCallback):
    """Says what compiling takes: before the first step and in it."""

    def __init__(self, prepare: Callable[[], None] | None = None) -> None:
        self.prepare = prepare
        self._before = 0.0
        self._step_began: float | None = None
        self._told = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """On every process: each compiles for itself."""
        started = time.perf_counter()
        if state.is_world_process_zero:
            logger.warning(
                "torch.compile (%s): the first step waits for it, a minute or more; later starts find most of it in "
                "the compiler's cache.",
                args.torch_compile_backend,
            )
        if self.prepare is not None:
            self.prepare()
        self._before = time.perf_counter() - started

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The clock of the first step starts."""
        if self._step_began is None:
            self._step_began = time.perf_counter()

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The first of several batches of a step has compiled all there is."""
        self._tell(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """As `on_substep_end`, of a step of one batch."""
        self._tell(state)

    def _tell(self, state: TrainerState) -> None:
        if not self._told and self._step_began is not None and state.is_world_process_zero:
            first = time.perf_counter() - self._step_began
            logger.warning(
                "torch.compile: %.1f s at the start (%.1f s before the first step, %.1f s in it)",
                *(self._before + first, self._before, first),
            )
        self._told = True
