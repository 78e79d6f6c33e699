"""Everything that steps an optimizer: pretraining, linear probe, fine-tuning.

Names are looked up when they are asked for, so that `from trainers import SyntheticNegatives` loads the losses alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.pretraining_arguments import SynCoTrainingArguments
    from trainers.pretraining_model import SynCoForPreTraining
    from trainers.pretraining_trainer import SynCoTrainer
    from trainers.settings import PretrainingSettings
    from trainers.synthetic_negatives import SyntheticNegatives

__all__ = [
    "PretrainingSettings",
    "SynCoForPreTraining",
    "SynCoTrainer",
    "SynCoTrainingArguments",
    "SyntheticNegatives",
]

_HOMES = {
    "PretrainingSettings": "trainers.settings",
    "SynCoForPreTraining": "trainers.pretraining_model",
    "SynCoTrainer": "trainers.pretraining_trainer",
    "SynCoTrainingArguments": "trainers.pretraining_arguments",
    "SyntheticNegatives": "trainers.synthetic_negatives",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Names that are there only when they are asked for are listed too, for completion in a notebook."""
    return sorted({*globals(), *__all__})
