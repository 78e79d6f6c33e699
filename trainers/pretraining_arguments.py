"""`SynCoTrainingArguments`: how to pretrain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from transformers import Trainer
from transformers.training_args import OptimizerNames

from synco_hub.data.views.transform import resolve_place
from trainers.refusals import PRETRAINING_DOES_OTHERWISE, list_defaults
from trainers.settings import PretrainingOptions, check_schedules
from trainers.training_arguments import CheckedTrainingArguments


@dataclass
class SynCoTrainingArguments(PretrainingOptions, CheckedTrainingArguments):  # type: ignore[misc]
    """How to pretrain (paper section 7.4); where `TrainingArguments` silently contradicts the paper, the paper wins.

    The learning rate is `base_learning_rate` × (micro-batch × processes × accumulation) / 512 unless
    `learning_rate` is given, which is used as it is.
    """

    _argument_group_name: ClassVar[str] = "training (section 7.4; the rest are transformers.TrainingArguments)"

    does_otherwise: ClassVar[Mapping[str, str]] = PRETRAINING_DOES_OTHERWISE

    def __post_init__(self) -> None:
        check_schedules(self)
        if self.disable_tqdm is None:
            # The Trainer would hide the bar because its library was told to write no warnings.
            self.disable_tqdm = False
        if self.save_strategy == "best":
            raise ValueError(
                "--save-strategy best is not for this training: the last step is the result, since no labels say "
                "which is best; give steps, epoch or no."
            )
        super().__post_init__()
        # torch refuses to keep workers that there are not.
        self.dataloader_persistent_workers = self.dataloader_persistent_workers and self.dataloader_num_workers > 0
        self._refuse_settings_of_another_optimizer()
        self.augment_on = resolve_place(self.augment_on, self.device.type)

    def _refuse_settings_of_another_optimizer(self) -> None:
        """Refuses what `--optim` has no use for: the same optimizer comes out without it."""
        defaults = list_defaults(type(self))
        for name in ("optim_args", "adam_beta1", "adam_beta2", "adam_epsilon"):
            given = getattr(self, name)
            if given == defaults[name]:
                continue
            with_it = Trainer.get_optimizer_cls_and_kwargs(self)
            setattr(self, name, defaults[name])
            without_it = Trainer.get_optimizer_cls_and_kwargs(self)
            setattr(self, name, given)
            if with_it == without_it:
                optimizer = OptimizerNames(self.optim).value
                raise ValueError(
                    f"--{name.replace('_', '-')} {given} changes nothing of --optim {optimizer}: "
                    "leave it out, or choose an optimizer that has it."
                )

    def count_warmup_steps(self, total_steps: int, steps_per_epoch: float) -> int:
        """Optimizer steps of the learning-rate warm-up: 40 of 300 epochs, or as given."""
        if self.warmup_epochs is None:
            return round(total_steps * 40 / 300)
        return round(self.warmup_epochs * steps_per_epoch)
