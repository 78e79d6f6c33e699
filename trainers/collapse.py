"""Warnings that a run learns nothing: all features alike, no positive found, a loss that a guess would have."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

# A loss this close to the one of a guess, relative, is a guess.
LOSS_TOLERANCE = 0.01
# Logged intervals in a row before something counts as stuck; the first ones of a run prove nothing.
PATIENCE = 5
ADVICE = "Lower the learning rate, use a larger batch, or look at the views."


def guessing_loss(num_negatives: float, num_directions: int = 2) -> float:
    """The loss when the positive looks like every negative: ln(K + 1) for each direction.

    Args:
        num_negatives: Real and synthetic negatives of a query.
        num_directions: Directions that are summed.
    """
    return num_directions * math.log(num_negatives + 1)


class CollapseCallback(TrainerCallback):
    """Warns once of each sign of collapse.

    Args:
        queue_size: Real negatives K; None for a method without negatives.
    """

    threshold = 0.05

    def __init__(self, queue_size: int | None = None) -> None:
        self.queue_size = queue_size
        self.warned: set[str] = set()
        self._in_a_row: dict[str, int] = {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """`feature_std` is 1 for features spread over the sphere and 0 for a single point."""
        logs: Mapping[str, float] = kwargs.get("logs") or {}
        spread = logs.get("feature_std")
        if spread is not None and spread < self.threshold:
            self._warn(
                "spread", state, f"features are collapsing: feature_std={spread:.4f} is below {self.threshold:.2f}"
            )
        if self.queue_size is None or "contrast_accuracy" not in logs:
            return
        negatives = self.queue_size + logs.get("num_synthetic", 0.0)
        accuracy = logs["contrast_accuracy"]
        if self._stuck("accuracy", accuracy <= 2 / (negatives + 1)):
            self._warn("accuracy", state, f"contrast accuracy is stuck at {accuracy:.4f}: a guess finds as many")
        guess = guessing_loss(negatives)
        if self._stuck("loss", abs(logs["loss"] - guess) <= LOSS_TOLERANCE * guess):
            self._warn(
                "loss", state, f"the loss stays at {logs['loss']:.3f}, and a guess has 2·ln(K + 1) = {guess:.3f}"
            )

    def _stuck(self, name: str, bad: bool) -> bool:
        self._in_a_row[name] = self._in_a_row.get(name, 0) + 1 if bad else 0
        return self._in_a_row[name] >= PATIENCE

    def _warn(self, name: str, state: TrainerState, what: str) -> None:
        if name not in self.warned:
            self.warned.add(name)
            logger.warning("After step %d %s. %s", state.global_step, what, ADVICE)
