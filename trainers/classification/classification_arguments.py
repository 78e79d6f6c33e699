"""The numbers of linear probing (paper section 7.5) and fine-tuning (7.6), each once; every field is a flag."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments

from synco_hub.settings import DatasetChoice
from trainers.schedules import scaled_learning_rate

IMAGENET_LEARNING_RATES = (0.1, 0.5, 0.75, 1.0, 1.25, 1.5)
TRANSFER_LEARNING_RATES = (1.0,)
_IMAGENET_NAMES = ("imagenet", "imagenet-1k", "imagenet1k", "ilsvrc", "ilsvrc2012")


@dataclass(frozen=True)
class LabelledDataArguments(DatasetChoice):
    """Which model is measured on which labelled images."""

    _argument_group_name: ClassVar[str] = "model and data"

    model: str = field(
        default="",
        metadata={"help": "Zoo or installed short name, checkpoint directory, Hub id, or timm:<name>. Required."},
    )
    train_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Low-shot: share of the training images; 0.01 and 0.1 of imagenet-1k are SimCLR's lists, anything "
            "else is drawn by --split-seed per class."
        },
    )
    train_list: str | None = field(
        default=None,
        metadata={"help": "Low-shot: file with one training image name a line, such as SimCLR's 1percent.txt."},
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("--model is missing: give a short name, a checkpoint directory, a Hub id or timm:<name>.")


@dataclass
class ClassificationArguments(TrainingArguments):
    """What probing and fine-tuning share; where `TrainingArguments` contradicts the paper, the paper wins."""

    _argument_group_name: ClassVar[str] = "training (the rest are transformers.TrainingArguments)"

    num_train_epochs: float = field(default=100, metadata={"help": "Epochs (7.5, 7.6)."})
    per_device_train_batch_size: int = field(
        default=128, metadata={"help": "Images per process and step; the paper does not say, and rates are scaled."}
    )
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Test images per process and forward."})
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Peak rate, used as it is instead of the scaled base rate."}
    )
    momentum: float = field(default=0.9, metadata={"help": "Momentum of SGD (7.5, 7.6)."})
    label_smoothing: float = field(
        default=0.1, metadata={"help": "Label smoothing ε (7.5, 7.6); not for multi-label."}
    )
    warmup_epochs: float | None = field(default=None, metadata={"help": "Epochs of linear warm-up from 0."})
    max_bad_fraction: float = field(default=0.01, metadata={"help": "Share of images that may be unreadable."})
    resume: bool = field(default=False, metadata={"help": "Continue from the newest whole checkpoint, if any."})
    output: str | None = field(
        default=None, metadata={"help": "Where the result goes; default: <output-dir>/<protocol>.json."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Off: targets are not model columns."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Off: it hides NaN."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many optimizer steps."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When the test split is measured."})
    save_strategy: str = field(default="epoch", metadata={"help": "When a checkpoint is written."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept, at least 2."})
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes that decode and augment."})
    report_to: str | None = field(  # type: ignore[assignment]
        default="none", metadata={"help": "tensorboard, wandb, … or none."}
    )

    # Share of the run that the paper's warm-up is; the subclass says.
    warmup_fraction: ClassVar[float] = 0.05

    def __post_init__(self) -> None:
        given = self.learning_rate
        self.learning_rate = 0.0 if given is None else given
        super().__post_init__()  # type: ignore[no-untyped-call]
        # torch's DataParallel would split the batch behind the frozen network's back; several GPUs, several processes.
        self._n_gpu = min(self._n_gpu, 1)
        self.given_learning_rate = given
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} is not in [0, 1): the paper uses 0.1.")
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise ValueError(
                f"save_total_limit={self.save_total_limit} would delete the only whole checkpoint while the next is "
                "written: give at least 2."
            )

    @property
    def global_batch_size(self) -> int:
        """Images per optimizer step: micro-batch × processes × accumulation steps."""
        return self.per_device_train_batch_size * self.world_size * self.gradient_accumulation_steps

    def scaled(self, base_learning_rate: float) -> float:
        """The peak rate of a base rate: base × global batch / 512 (our choice, as in pretraining)."""
        return scaled_learning_rate(base_learning_rate, self.global_batch_size)

    def warmup_steps_of(self, total_steps: int, steps_per_epoch: float) -> int:
        """Optimizer steps of the warm-up: the paper's share of the run, or as given."""
        if self.warmup_epochs is None:
            return round(total_steps * self.warmup_fraction)
        return round(self.warmup_epochs * steps_per_epoch)


@dataclass
class LinearProbeArguments(ClassificationArguments):
    """Linear probing (paper section 7.5)."""

    _argument_group_name: ClassVar[str] = "linear probing (section 7.5; the rest are transformers.TrainingArguments)"

    learning_rates: list[float] | None = field(
        default=None,
        metadata={"help": "Base rates trained side by side; default: the grid on ImageNet, 1.0 elsewhere (7.5)."},
    )
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay (7.5)."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; the paper names none: 0 is off."})
    cached_features: bool = field(
        default=False,
        metadata={"help": "Quick look: features of centre crops, computed once. Not the paper's protocol."},
    )

    warmup_fraction: ClassVar[float] = 5 / 100

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
class FineTuningArguments(ClassificationArguments):
    """Fine-tuning (paper section 7.6)."""

    _argument_group_name: ClassVar[str] = "fine-tuning (section 7.6; the rest are transformers.TrainingArguments)"

    base_learning_rate: float = field(default=1e-3, metadata={"help": "Rate at a global batch of 512 (7.6)."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Not on norms, biases, tokens, tables (7.6)."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Largest norm of the gradient (7.6)."})
    classifier_dropout: float = field(default=0.1, metadata={"help": "Dropout before the head (7.6)."})

    warmup_fraction: ClassVar[float] = 10 / 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(f"classifier_dropout={self.classifier_dropout} is not in [0, 1): the paper uses 0.1.")
        if self.given_learning_rate is None:
            self.learning_rate = self.scaled(self.base_learning_rate)
