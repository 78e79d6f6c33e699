"""The arguments of linear probing (paper section 7.5) and fine-tuning (7.6) as a Trainer takes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from synco_hub.settings import setting
from trainers.classification.settings import (
    FINE_TUNING_RATE,
    SHORTEST_FINE_TUNING,
    ClassificationOptions,
    FineTuningOptions,
    LabelledDataArguments,
    LinearProbeOptions,
    choose_fine_tuning_rate,
)
from trainers.refusals import FINE_TUNING_DOES_OTHERWISE, LINEAR_PROBE_DOES_OTHERWISE
from trainers.schedules import scaled_learning_rate
from trainers.settings import toggle
from trainers.start_settings import check_layer_decay
from trainers.training_arguments import CheckedTrainingArguments

logger = logging.getLogger(__name__)

IMAGENET_LEARNING_RATES = (0.1, 0.5, 0.75, 1.0, 1.25, 1.5)
TRANSFER_LEARNING_RATES = (1.0,)
_IMAGENET_NAMES = ("imagenet", "imagenet-1k", "imagenet1k", "ilsvrc", "ilsvrc2012")
# Stands for the metric by which the data are judged, which is known when they are open.
PRIMARY = "primary"


@dataclass
class ClassificationArguments(ClassificationOptions, CheckedTrainingArguments):  # type: ignore[misc]
    """What probing and fine-tuning share; where `TrainingArguments` contradicts the paper, the paper wins."""

    _argument_group_name: ClassVar[str] = "training (the rest are transformers.TrainingArguments)"

    # Share of the run that the paper's warm-up is; the subclass says.
    warmup_fraction: ClassVar[float] = 0.05

    optim: str = setting("sgd", "Always SGD (7.5, 7.6).")
    do_eval: bool = toggle(True, "On: the test split is measured.")

    def __post_init__(self) -> None:
        if self.metric_for_best_model is None and (self.load_best_model_at_end or self.save_strategy == "best"):
            self.metric_for_best_model = PRIMARY
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} is not in [0, 1): the paper uses 0.1.")

    def scaled(self, base_learning_rate: float) -> float:
        """The peak rate of a base rate: base × global batch / 512 (our choice, as in pretraining)."""
        return scaled_learning_rate(base_learning_rate, self.global_batch_size)

    def count_warmup_steps(self, total_steps: int, steps_per_epoch: float) -> int:
        """Optimizer steps of the warm-up: the paper's share of the run, or as given."""
        if self.warmup_epochs is None:
            return round(total_steps * self.warmup_fraction)
        return round(self.warmup_epochs * steps_per_epoch)


@dataclass
class LinearProbeArguments(LinearProbeOptions, ClassificationArguments):  # type: ignore[misc]
    """Linear probing (paper section 7.5)."""

    _argument_group_name: ClassVar[str] = "linear probing (section 7.5; the rest are transformers.TrainingArguments)"

    warmup_fraction: ClassVar[float] = 5 / 100
    does_otherwise: ClassVar[Mapping[str, str]] = LINEAR_PROBE_DOES_OTHERWISE

    def __post_init__(self) -> None:
        super().__post_init__()
        for rate in self.learning_rates or ():
            if not rate > 0:
                raise ValueError(f"learning_rates={self.learning_rates}: every rate is above 0; the paper uses 1.0.")
        if self.learning_rates is not None and len(set(self.learning_rates)) != len(self.learning_rates):
            raise ValueError(f"learning_rates={self.learning_rates} names a rate twice: give each once.")
        if self.given_learning_rate is not None:
            raise ValueError(
                f"learning_rate={self.given_learning_rate} is not used here: give --learning-rates, the base rates of "
                "the heads, which are scaled by batch / 512."
            )

    def base_rates(self, dataset: str) -> tuple[float, ...]:
        """Base rates of the heads on a data set, by its name."""
        if self.learning_rates:
            return tuple(self.learning_rates)
        last = dataset.rstrip("/").rsplit("/", 1)[-1].lower()
        return IMAGENET_LEARNING_RATES if last in _IMAGENET_NAMES else TRANSFER_LEARNING_RATES


@dataclass
class FineTuningArguments(FineTuningOptions, ClassificationArguments):  # type: ignore[misc]
    """Fine-tuning (paper section 7.6)."""

    _argument_group_name: ClassVar[str] = "fine-tuning (section 7.6; the rest are transformers.TrainingArguments)"

    warmup_fraction: ClassVar[float] = 10 / 100
    does_otherwise: ClassVar[Mapping[str, str]] = FINE_TUNING_DOES_OTHERWISE

    def fit_to(self, num_images: int) -> None:
        """As in every training; and choose the base rate by the length of the run where none is given."""
        if self.base_learning_rate is None:
            seen = (
                self.max_steps * self.global_batch_size if self.max_steps > 0 else self.num_train_epochs * num_images
            )
            self.base_learning_rate = choose_fine_tuning_rate(seen)
            if self.given_learning_rate is None and self.base_learning_rate != FINE_TUNING_RATE:
                logger.warning(
                    "--base-learning-rate %.3g, since the run sees %d images: at the paper's %g, which is for %d or "
                    "more, the head would stay near its random start.",
                    *(self.base_learning_rate, seen, FINE_TUNING_RATE, SHORTEST_FINE_TUNING),
                )
        super().fit_to(num_images)

    def choose_learning_rate(self) -> float:
        """As in every training; before the data are open the paper's."""
        return self.scaled(FINE_TUNING_RATE if self.base_learning_rate is None else self.base_learning_rate)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer_decay(self.layer_decay)
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size={self.image_size} is not positive: give a whole number of pixels.")
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(f"classifier_dropout={self.classifier_dropout} is not in [0, 1): the paper uses 0.1.")


LINEAR_PROBE_KINDS = (LabelledDataArguments, LinearProbeArguments)
FINE_TUNING_KINDS = (LabelledDataArguments, FineTuningArguments)
