"""The numbers of linear probing (paper section 7.5) and fine-tuning (7.6), each once; every field is a flag.

Nothing here imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from synco_hub.settings import DEFAULT_MAX_BAD_FRACTION, MODEL_REVISION, DatasetChoice, setting
from trainers.settings import toggle

SETTINGS_FILE = "classification_settings.json"


@dataclass(frozen=True)
class LabelledDataArguments(DatasetChoice):
    """Which model is measured on which labelled images."""

    _argument_group_name: ClassVar[str] = "model and data"

    model: str = setting("", "Zoo or installed short name, checkpoint directory, Hub id, or timm:<name>. Required.")
    model_revision: str | None = setting(None, MODEL_REVISION)
    train_fraction: float | None = setting(
        None,
        "Low-shot: share of the training images; 0.01 and 0.1 of imagenet-1k are SimCLR's lists, anything else is "
        "drawn by --split-seed per class.",
    )
    train_list: str | None = setting(
        None, "Low-shot: file with one training image name a line, such as SimCLR's 1percent.txt."
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("--model is missing: give a short name, a checkpoint directory, a Hub id or timm:<name>.")


@dataclass
class ClassificationOptions:
    """What probing and fine-tuning share: the fields of their arguments that are ours, or that every run meets."""

    output_dir: str | None = setting(None, "Folder of the run: checkpoints, the trained classifier, its result.")
    output: str | None = setting(None, "Where the result goes; default: <output-dir>/<protocol>.json.")
    num_train_epochs: float = setting(100, "Epochs (7.5, 7.6).")
    max_steps: int = setting(-1, "Optimizer steps, instead of epochs; the result is then partial.")
    per_device_train_batch_size: int = setting(
        128, "Images per process and step; the paper does not say, and rates are scaled."
    )
    gradient_accumulation_steps: int = setting(1, "Batches of a process that make one optimizer step.")
    per_device_eval_batch_size: int = setting(256, "Test images per process and forward.")
    learning_rate: float | None = setting(
        None, "Peak rate as it is, instead of --base-learning-rate, which then has no effect."
    )
    momentum: float = setting(0.9, "Momentum of SGD (7.5, 7.6).")
    label_smoothing: float = setting(0.1, "Label smoothing ε (7.5, 7.6); not for multi-label.")
    warmup_epochs: float | None = setting(None, "Epochs of linear warm-up from 0.")
    max_bad_fraction: float = setting(DEFAULT_MAX_BAD_FRACTION, "Share of images that may be unreadable.")
    resume: bool = toggle(
        False,
        "Continue from the newest complete checkpoint, if any; without --dataset, flags that are left out are those "
        "the run was started with.",
    )
    seed: int = setting(42, "Draws weights, order and crops.")
    use_cpu: bool = toggle(False, "Train on the CPU also where there is a GPU.")
    eval_strategy: str = setting("epoch", "When the test split is measured.")
    save_strategy: str = setting("epoch", "When a checkpoint is written.")
    save_total_limit: int | None = setting(2, "Checkpoints kept, at least 2.")
    logging_steps: float = setting(50, "Log every so many optimizer steps.")
    logging_nan_inf_filter: bool = toggle(False, "Off: it hides NaN.")
    report_to: str | None = setting("none", "tensorboard, wandb, … or none.")
    dataloader_num_workers: int = setting(2, "Processes that decode and augment.")
    remove_unused_columns: bool = toggle(False, "Off: targets are not model columns.")


@dataclass
class LinearProbeOptions(ClassificationOptions):
    """Linear probing (paper section 7.5)."""

    _argument_group_name: ClassVar[str] = "linear probing (section 7.5)"

    learning_rates: list[float] | None = field(
        default=None,
        metadata={"help": "Base rates trained side by side; default: the grid on ImageNet, 1.0 elsewhere (7.5)."},
    )
    learning_rate: float | None = setting(None, "Not used here: give --learning-rates.")
    weight_decay: float = setting(0.0, "Weight decay (7.5).")
    max_grad_norm: float = setting(0.0, "Gradient clipping; the paper names none: 0 is off.")
    cached_features: bool = toggle(
        False, "Quick look: features of centre crops, computed once. Not the paper's protocol."
    )


# Rate at a global batch of 512 (7.6).
FINE_TUNING_RATE = 1e-3
# Images that the shortest of the paper's runs sees: 100 epochs of Flowers-102. In fewer the paper's rate cannot take a
# head of SGD, with gradients of norm 1 at most, far from its random start; so rate × images is this much there.
SHORTEST_FINE_TUNING = 204_000
RATE_TIMES_IMAGES = 2_000.0


def choose_fine_tuning_rate(images_seen: float) -> float:
    """The base rate where none is given, by the images that a run sees, each as often as there are epochs."""
    if images_seen >= SHORTEST_FINE_TUNING:
        return FINE_TUNING_RATE
    return min(RATE_TIMES_IMAGES / images_seen, 1.0)


@dataclass
class FineTuningOptions(ClassificationOptions):
    """Fine-tuning (paper section 7.6)."""

    _argument_group_name: ClassVar[str] = "fine-tuning (section 7.6)"

    image_size: int | None = setting(
        None, "Side of the input in pixels, where it shall be another than the checkpoint's: positions follow."
    )
    base_learning_rate: float | None = setting(
        None,
        "Rate at a global batch of 512; default: 1e-3 (7.6), and 2,000 / (epochs × images) where that product is "
        "below 204,000, the paper's shortest run.",
    )
    layer_decay: float = setting(1.0, "Each block's rate over that of the one above it; 1 is off, as the paper.")
    weight_decay: float = setting(1e-4, "Not on norms, biases, tokens, tables (7.6).")
    max_grad_norm: float = setting(1.0, "Largest norm of the gradient (7.6).")
    classifier_dropout: float = setting(0.1, "Dropout before the head (7.6).")
