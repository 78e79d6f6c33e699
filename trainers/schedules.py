"""The schedules of pretraining: momentum, synthesis window, learning rate (paper section 7.4), token dropout."""

from __future__ import annotations

import math

# Fractions of the run that the paper's 30 of 300 warm-up and 100 of 300 cool-down epochs are.
SYNTHETIC_WARMUP_FRACTION = 30 / 300
SYNTHETIC_COOLDOWN_FRACTION = 100 / 300
TOKEN_DROPOUT_COOLDOWN_FRACTION = 0.1


def target_momentum(step: int, total_steps: int, start: float = 0.99) -> float:
    """Momentum m of the target network at an optimizer step, rising from `start` to 1 along a cosine.

    Source: paper section 7.4, after BYOL (Grill et al. 2020, appendix B).
    """
    if total_steps < 1:
        raise ValueError(f"total_steps={total_steps} is not positive: the schedule needs a run of at least one step.")
    if not 0.0 <= start <= 1.0:
        raise ValueError(f"start={start} is not in [0, 1]: the paper uses 0.99.")
    progress = min(max(step / total_steps, 0.0), 1.0)
    return 1.0 - (1.0 - start) * (math.cos(math.pi * progress) + 1.0) / 2.0


def synthetic_epochs(total_epochs: int, warmup: float | None = None, cooldown: float | None = None) -> range:
    """Epochs in which synthetic negatives are made, counted from 0.

    Returns:
        `range(30, 200)` for the paper's 300 epochs. Empty if warm-up and cool-down leave nothing.

    Source: paper section 7.4.
    """
    return synthetic_steps(total_epochs, 1.0, warmup, cooldown)


def synthetic_steps(
    total_steps: int,
    steps_per_epoch: float,
    warmup_epochs: float | None = None,
    cooldown_epochs: float | None = None,
    last_epoch: float | None = None,
) -> range:
    """Optimizer steps in which synthetic negatives are made, counted from 0.

    With ``last_epoch`` the window is the authors' code's: it ends with that epoch whatever the run's length, and a
    step counts as the next one there, so that it begins and ends one step earlier.

    Source: paper section 7.4; the global optimizer step counts, so the window does not depend on the processes.
    """
    for name, value in (("warm-up", warmup_epochs), ("cool-down", cooldown_epochs)):
        if value is not None and value < 0:
            raise ValueError(f"A synthetic {name} of {value} epochs is negative: give 0 or more.")
    warmup = total_steps * SYNTHETIC_WARMUP_FRACTION if warmup_epochs is None else warmup_epochs * steps_per_epoch
    if last_epoch is not None:
        end = min(round((last_epoch + 1) * steps_per_epoch) - 1, total_steps)
        return range(max(round(warmup) - 1, 0), max(round(warmup) - 1, end, 0))
    cooldown = (
        total_steps * SYNTHETIC_COOLDOWN_FRACTION if cooldown_epochs is None else cooldown_epochs * steps_per_epoch
    )
    return range(round(warmup), max(round(warmup), total_steps - round(cooldown)))


def token_dropout_factor(
    step: int, total_steps: int, steps_per_epoch: float, cooldown_epochs: float | None = None
) -> float:
    """Factor on the share of tokens that an optimizer step, counted from 0, leaves out.

    1, and over the cool-down at the end of the run a line to 0, which the last step has; without one 1 throughout.
    """
    steps = total_steps * TOKEN_DROPOUT_COOLDOWN_FRACTION
    cooldown = round(steps if cooldown_epochs is None else min(cooldown_epochs * steps_per_epoch, total_steps))
    return min(max((total_steps - 1 - step) / cooldown, 0.0), 1.0) if cooldown else 1.0


def scaled_learning_rate(base_learning_rate: float, global_batch_size: int, reference_batch_size: int = 512) -> float:
    """Linear scaling of the learning rate with the batch: base × global batch / 512.

    Source: paper section 7.4 for the base rate; it names no scaling rule, this one is Goyal et al. 2017.
    """
    return base_learning_rate * global_batch_size / reference_batch_size


def learning_rate_factor(
    step: int, total_steps: int, warmup_steps: int, start: float = 0.0, end: float = 0.0
) -> float:
    """Factor on the peak learning rate: linear from `start` over the warm-up, then a cosine to `end`.

    Source: paper section 7.4.
    """
    if step < warmup_steps:
        return start + (1.0 - start) * step / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def learning_rate_factor_of_authors(
    step: int, total_steps: int, warmup_steps: int, start: float = 0.0, end: float = 0.0
) -> float:
    """Factor on the peak learning rate in the authors' code: each step has the rate of the one before.

    Linear from `start` over the warm-up, then the rest of a cosine to `end` that began at step 0, so that the rate
    falls at the end of the warm-up.

    Source: MoBY's code, timm's `CosineLRScheduler` with `warmup_prefix=False`, updated by k after step k.
    """
    step = max(step - 1, 0)
    if step < warmup_steps:
        return start + (1.0 - start) * step / warmup_steps
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * min(step / max(total_steps, 1), 1.0)))


def frozen_backbone_factor(step: int, frozen_steps: int, warmup_steps: int) -> float:
    """Factor on the backbone's rate where heads learn alone at first: 0, then a linear warm-up to 1."""
    return 0.0 if step < frozen_steps else min((step - frozen_steps + 1) / max(warmup_steps, 1), 1.0)
