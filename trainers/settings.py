"""The flags of pretraining with the paper's numbers, each once, and the section it stands in.

`SyntheticNegativesConfig` holds the numbers of the synthesis; `PretrainingSettings` defines network and objective and
is saved in `config.pretraining`; `PretrainingOptions` says how to train. Nothing here imports torch, so that `--help`
answers at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from synco_hub.errors import suggest
from synco_hub.settings import DEFAULT_MAX_BAD_FRACTION, DatasetChoice, setting
from trainers.objectives import OBJECTIVES
from trainers.start_settings import ContinuationOptions, check_layer_decay

PAPER = "paper"
AUTHORS_CODE = "authors-code"


DEFAULT_BACKBONE = "deit-s"

# Flags that are as they must be, or of use to few: only the long help shows them.
SELDOM_GIVEN = (
    *("logging_nan_inf_filter", "dataloader_drop_last", "remove_unused_columns", "ddp_broadcast_buffers"),
    "ddp_find_unused_parameters",
)


def toggle(default: bool, help: str, **flag: Any) -> Any:
    """A field that is given as the flags of `transformers.TrainingArguments` are: `--name` or `--name false`."""
    return field(default=default, metadata={"help": help, **flag})


def _paper_counts() -> dict[str, int]:
    return {
        "interpolation": 128,
        "extrapolation": 128,
        "mixup": 128,
        "noise_injection": 128,
        "gradient_perturbation": 128,
        "adversarial_perturbation": 128,
    }


@dataclass(frozen=True)
class SyntheticNegativesConfig:
    """The settings of the six kinds of synthetic hard negatives; the defaults are the paper's (§7.4).

    Attributes:
        num_hard_negatives: N, how many of the queue vectors most similar to a query count as hard.
        counts: How many synthetic negatives of each kind a query gets. A kind left out, or given 0, is not made.
        temperature: τ of InfoNCE.
        interpolation_range: α is uniform in it.
        extrapolation_range: β is uniform in it.
        mixup_range: γ is uniform in it.
        noise_std: σ of noise injection.
        gradient_step: δ of gradient perturbation.
        adversarial_step: η of adversarial perturbation.
    """

    num_hard_negatives: int = 256
    counts: Mapping[str, int] = field(default_factory=_paper_counts)
    temperature: float = 0.2
    interpolation_range: tuple[float, float] = (0.0, 0.5)
    extrapolation_range: tuple[float, float] = (1.0, 1.5)
    mixup_range: tuple[float, float] = (0.0, 1.0)
    noise_std: float = 0.01
    gradient_step: float = 0.01
    adversarial_step: float = 0.01

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.num_hard_negatives < 1:
            raise ValueError(
                f"num_hard_negatives={self.num_hard_negatives} must be at least 1; the paper uses 256. "
                "To make no synthetic negatives, set all counts to 0."
            )
        kinds = _paper_counts()
        for kind, count in self.counts.items():
            if kind not in kinds:
                raise ValueError(
                    f"counts names the unknown kind {kind!r}; the kinds are {', '.join(kinds)}.{suggest(kind, kinds)}"
                )
            if not isinstance(count, int) or count < 0:
                raise ValueError(f"counts[{kind!r}]={count} must be a whole number from 0 up; 0 leaves the kind out.")
        for name in ("interpolation_range", "extrapolation_range", "mixup_range"):
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name}=({low}, {high}) must be finite and in order; give the lower end first.")
        for name in ("noise_std", "gradient_step", "adversarial_step"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} must be finite and not negative; the paper uses 0.01.")

    @property
    def active_counts(self) -> dict[str, int]:
        """The kinds that are made, in the paper's order, with their counts."""
        return {kind: self.counts[kind] for kind in _paper_counts() if self.counts.get(kind, 0)}


def check_temperature(temperature: float) -> None:
    """Refuses a temperature that is not a positive finite number."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature} must be positive and finite; the paper uses 0.2.")


# The numbers of the synthesis, which become flags below.
_SYNTHESIS = SyntheticNegativesConfig()


# Settings that earlier versions wrote and that are no more: the values that mean what is done now.
RETIRED: dict[str, tuple[Any, ...]] = {"noise": ("independent",)}
# Values that earlier versions knew of settings that are still there.
RETIRED_VALUES: dict[str, tuple[Any, ...]] = {"augment_on": ("reference",)}


@dataclass
class PretrainingSettings:
    """What defines the pretraining network and its objective (paper sections 7.2 and 7.4).

    Raises:
        ValueError: On an unknown method, a count, size or temperature that is not positive, or more hard negatives
            than the queue holds.
    """

    _argument_group_name: ClassVar[str] = "method and objective (section 7.4)"

    method: str = setting("synco-v2", f"{', '.join(f'{name} ({row.negatives})' for name, row in OBJECTIVES.items())}.")
    projection_hidden_dim: int = setting(4096, "Hidden width of both heads (7.2).")
    projection_dim: int = setting(256, "Output dimension of both heads (7.2).")
    head_norm: str = setting(
        "batch", "Norm between the layers of a head: batch (7.2), or none for comparisons across batches."
    )
    online_drop_path_rate: float | None = setting(
        None, "Stochastic depth of the online encoder: 0.2, and 0.0 for BYOL (7.4)."
    )
    target_drop_path_rate: float = setting(0.0, "Stochastic depth of the target encoder (7.4).")
    token_dropout: float = setting(
        0.0,
        "Share of patch tokens that the online encoder, a ViT, leaves out at random in each step, which saves time "
        "where there are many (PatchDropout; not the paper's). In equal time it was ahead at 64 patches.",
    )
    target_token_dropout: float = setting(0.0, "As --token-dropout, of the target encoder.")
    queue_size: int = setting(4096, "Keys K in each memory queue (7.4).")
    temperature: float = setting(_SYNTHESIS.temperature, "Temperature τ of the contrastive loss (7.4).")
    num_hard_negatives: int = setting(
        _SYNTHESIS.num_hard_negatives, "N, the negatives most similar to the query that synthesis starts from (7.4)."
    )
    synthetic_for_local_crops: bool = toggle(
        False, "Synthetic negatives for small views too (--local-crops), not for the two views alone."
    )
    num_interpolation: int = setting(_SYNTHESIS.counts["interpolation"], "Synthetic negatives αq + (1−α)n (7.4).")
    num_extrapolation: int = setting(_SYNTHESIS.counts["extrapolation"], "Synthetic negatives q + β(n − q) (7.4).")
    num_mixup: int = setting(_SYNTHESIS.counts["mixup"], "Synthetic negatives γn + (1−γ)n′ (7.4).")
    num_noise_injection: int = setting(_SYNTHESIS.counts["noise_injection"], "Synthetic negatives n + σε (7.4).")
    num_gradient_perturbation: int = setting(
        _SYNTHESIS.counts["gradient_perturbation"], "Synthetic negatives n + δq (7.4)."
    )
    num_adversarial_perturbation: int = setting(
        _SYNTHESIS.counts["adversarial_perturbation"], "Synthetic negatives n + η·sign(q) (7.4)."
    )
    interpolation_max: float = setting(_SYNTHESIS.interpolation_range[1], "α is uniform in (0, this) (7.4).")
    extrapolation_max: float = setting(_SYNTHESIS.extrapolation_range[1], "β is uniform in (1, this) (7.4).")
    mixup_max: float = setting(_SYNTHESIS.mixup_range[1], "γ is uniform in (0, this) (7.4).")
    noise_std: float = setting(_SYNTHESIS.noise_std, "σ of the noise negatives (7.4).")
    gradient_step: float = setting(_SYNTHESIS.gradient_step, "δ of the gradient negatives (7.4).")
    adversarial_step: float = setting(_SYNTHESIS.adversarial_step, "η of the adversarial negatives (7.4).")

    def __post_init__(self) -> None:
        if self.method not in OBJECTIVES:
            raise ValueError(
                f"method={self.method!r} is unknown: use one of {', '.join(OBJECTIVES)}."
                + suggest(self.method, OBJECTIVES)
            )
        if self.online_drop_path_rate is None:
            self.online_drop_path_rate = OBJECTIVES[self.method].drop_path_rate
        if self.head_norm not in ("batch", "none"):
            raise ValueError(f"head_norm={self.head_norm!r} is unknown: use 'batch' (the paper) or 'none'.")
        for name in ("token_dropout", "target_token_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not in [0, 1): give the share of patch tokens to leave out, "
                    "such as 0.5, or 0 for none."
                )
        for name in ("projection_hidden_dim", "projection_dim", "queue_size", "num_hard_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive: give at least 1.")
        for name, count in self.counts.items():
            if count < 0:
                raise ValueError(f"num_{name}={count} is negative: give 0 to leave the strategy out, or more.")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} is not positive: the paper uses 0.2.")
        if OBJECTIVES[self.method].synthesises and self.num_hard_negatives > self.queue_size:
            raise ValueError(
                f"num_hard_negatives={self.num_hard_negatives} exceeds queue_size={self.queue_size}, from which they "
                "are chosen: lower --num-hard-negatives or raise --queue-size."
            )

    @property
    def counts(self) -> dict[str, int]:
        """Synthetic negatives of each strategy, in the paper's order of types 1 to 6."""
        prefix = "num_"
        kinds = [f.name.removeprefix(prefix) for f in dataclasses.fields(self) if f.name.startswith(prefix)]
        return {kind: getattr(self, prefix + kind) for kind in kinds if kind != "hard_negatives"}

    @property
    def token_dropouts(self) -> dict[str, float]:
        """Share of tokens that a branch leaves out, of those that leave out any."""
        names = ("token_dropout", "target_token_dropout")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @classmethod
    def from_dict(cls, values: dict[str, Any] | None) -> PretrainingSettings:
        """Read what `config.pretraining` holds; None gives the paper's defaults.

        Raises:
            ValueError: If a key is unknown, naming the nearest, or as `drop_retired`.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        values = drop_retired(values or {}, "config.pretraining")
        for name in values:
            if name not in known:
                raise ValueError(f"config.pretraining has an unknown key {name!r}.{suggest(name, known)}")
        return cls(**values)


def drop_retired(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings as an earlier version wrote them, without those that are no more."""
    for name, value in values.items():
        if value in RETIRED_VALUES.get(name, ()) or value not in RETIRED.get(name, (value,)):
            raise ValueError(
                f"{where} has {name}={value!r}, which an earlier version knew and this one does not: start a new run "
                f"without it, or continue with the version that began it."
            )
    return {name: value for name, value in values.items() if name not in RETIRED}


@dataclass(frozen=True)
class RecipeArguments:
    """Groups of flags: what a recipe names wins over a fidelity, what is given beside them wins over both."""

    recipe: str | None = setting(
        None,
        "Name of a recipe or a YAML file of flags: synco-v2-deit-s and the like for ImageNet, small/300, small/3000, "
        "small/30000 for about so many own pictures; flags given here override it.",
    )
    fidelity: str = setting(
        PAPER,
        f"{PAPER}, or {AUTHORS_CODE}: the settings of the authors' published code where it differs; what a recipe or "
        "a flag names stays as it is named.",
    )


@dataclass(frozen=True)
class DataArguments(DatasetChoice):
    """Where the images come from."""

    _argument_group_name: ClassVar[str] = "data"

    streaming: bool = toggle(
        False, "Read parquet, webdataset or Hub data while training instead of downloading it first."
    )
    shuffle_buffer: int = setting(
        4096, "Encoded images in memory, of which --streaming draws the next; about 0.1 MB each."
    )
    images_per_epoch: int | None = setting(
        None, "Images of an epoch with --streaming; the next one goes on where it ends. Default: all."
    )
    stream_retries: int = setting(
        5, "Attempts after a network error, 1, 2, 4, … seconds apart; then the run saves and stops."
    )
    holdout: float | None = setting(
        None, "Keep a share of each class out, such as 0.2, or a number of images; drawn by --split-seed."
    )
    leak_check: bool = toggle(True, "Keep 40 bytes of each image, by which `evaluate` finds test images among them.")
    knn_dataset: str | None = setting(None, "What --knn-every-epochs measures on, as --dataset; default: that itself.")
    knn_data_dir: str | None = setting(None, "Folder of the files of --knn-dataset.")
    keep_dataset: str | None = setting(
        None,
        "The domain that --start-from learnt from, as --dataset: --knn-every-epochs measures on it too what is "
        "forgotten.",
    )
    keep_data_dir: str | None = setting(None, "Folder of the files of --keep-dataset.")
    knn_images: int | None = setting(
        None, "Images of each split that k-NN takes at most; default: all, with --streaming 10000."
    )

    def __post_init__(self) -> None:
        """Refuses flags that would be ignored."""
        if self.images_per_epoch is not None and not self.streaming:
            raise ValueError("--images-per-epoch is for --streaming: add that, or leave it out.")
        if self.holdout is not None and self.streaming:
            raise ValueError("--holdout is not for --streaming, which reads a split as it is: leave out one of them.")
        if self.knn_data_dir is not None and self.knn_dataset is None:
            raise ValueError(f"--knn-data-dir {self.knn_data_dir}: say by --knn-dataset which set its files are of.")
        if self.keep_data_dir is not None and self.keep_dataset is None:
            raise ValueError(
                f"--keep-data-dir {self.keep_data_dir}: say by --keep-dataset which set its files are of."
            )
        if self.knn_images is not None and self.knn_images < 1:
            raise ValueError(f"--knn-images {self.knn_images}: give at least 1, or leave it out.")


@dataclass(frozen=True)
class BackboneArguments:
    """Which backbone, see `synco_hub.SynCoConfig`; what is left out is the backbone's own (Table 10)."""

    _argument_group_name: ClassVar[str] = "backbone (section 7.2)"

    backbone: str | None = setting(
        None, f"{DEFAULT_BACKBONE} (the default), swin-t, vit-b, … or a timm ViT or Swin name."
    )
    image_size: int | None = setting(None, "Side of the views in pixels.")
    patch_size: int | None = setting(None, "Side of a patch in pixels.")
    embed_dim: int | None = setting(None, "Width of the tokens (Swin: of the first stage).")
    depth: list[int] | None = field(default=None, metadata={"help": "Blocks; for Swin one number a stage."})
    num_heads: list[int] | None = field(default=None, metadata={"help": "Heads; for Swin one number a stage."})
    mlp_ratio: float | None = setting(None, "Hidden width of the MLPs over their width.")
    window_size: int | None = setting(None, "Side of a Swin window in patches.")
    position_embedding: str | None = setting(None, "sincos (fixed, as the paper) or learned.")
    layer_norm_eps: float | None = setting(None, "Epsilon of every LayerNorm.")


@dataclass
class PretrainingOptions(ContinuationOptions):
    """How to pretrain (section 7.4): the fields of `SynCoTrainingArguments` that are ours, or that every run meets."""

    _argument_group_name: ClassVar[str] = "training (section 7.4)"

    output_dir: str | None = setting(None, "Folder of the run: checkpoints, the trained model, its card.")
    num_train_epochs: float = setting(300, "Epochs of pretraining (7.4).")
    max_steps: int = setting(-1, "Optimizer steps, instead of --num-train-epochs, which then has no effect.")
    per_device_train_batch_size: int = setting(
        128, "Images per process and step; the paper uses 128 on each of 4 GPUs (7.4)."
    )
    gradient_accumulation_steps: int = setting(1, "Batches of a process that make one optimizer step.")
    base_learning_rate: float = setting(
        1.5e-4,
        "Learning rate at a global batch of 512, scaled linearly (7.4); the way to set the rate. With --start-from a "
        "tenth of the default's or the recipe's: good weights need to move less.",
    )
    learning_rate: float | None = setting(
        None, "Peak rate as it is, instead of --base-learning-rate, which then has no effect."
    )
    weight_decay: float = setting(0.1, "AdamW weight decay, not on norms or biases (7.4).")
    warmup_epochs: float | None = setting(None, "Epochs of linear warm-up; default: 40 / 300 of the run (7.4).")
    learning_rate_curve: str = setting(
        PAPER,
        f"{PAPER}: a cosine after the warm-up. {AUTHORS_CODE}: the cosine counts from step 0, each step has the rate "
        "of the one before, start and end are given for a global batch of 512.",
    )
    learning_rate_start: float = setting(0.0, "Learning rate at the first step (7.4: 0).")
    learning_rate_end: float = setting(0.0, "Learning rate at the end of the run (7.4: 0).")
    decay_tokens_and_tables: bool = toggle(
        False, "Weight decay also on class tokens and relative position bias tables."
    )
    max_grad_norm: float = setting(0.0, "Gradient clipping; the paper names none: 0 is off.")
    momentum_start: float = setting(0.99, "Momentum of the target at the start (7.4).")
    synthetic_warmup_epochs: float | None = setting(
        None, "First epochs without synthetic negatives; default: a tenth (7.4: 30 of 300)."
    )
    synthetic_cooldown_epochs: float | None = setting(
        None, "Last epochs without them; default: a third of the run (7.4: 100 of 300)."
    )
    synthetic_last_epoch: float | None = setting(
        None,
        "Last epoch with them, from 0 and whatever the run's length, instead of --synthetic-cooldown-epochs, as the "
        "authors' code counts (one step ahead).",
    )
    token_dropout_cooldown_epochs: float | None = setting(
        None,
        "Last epochs over which token dropout falls linearly to 0, which the last step has; default: a tenth of the "
        "run; 0: it stays to the end.",
    )
    augment_on: str = setting(
        "auto",
        "Where views are distorted: worker (by OpenCV in the loading processes), device (crops from them, all else "
        "for a whole batch on the GPU, by compiled code), auto: device on a GPU, else worker.",
    )
    max_bad_fraction: float = setting(
        DEFAULT_MAX_BAD_FRACTION, "Share of the data set that may be unreadable before the run fails."
    )
    knn_every_epochs: float | None = setting(
        None,
        "Measure k-NN accuracy before the first step and every so many epochs; the images need classes, see "
        "--knn-dataset.",
    )
    resume: bool = toggle(
        False,
        "Continue from the newest complete checkpoint, if any; without --dataset, flags that are left out are those "
        "the run was started with.",
    )
    seed: int = setting(42, "Draws weights, order and views.")
    bf16: bool = toggle(
        False,
        "Run the backbone in bfloat16, on a GPU its norms and residuals too; weights, final norm and loss stay fp32.",
    )
    torch_compile: bool = toggle(
        False,
        "Compile each network once, and the loss, by torch.compile: the first step waits a minute or more, the log "
        "says how long. On a GPU it also allows TF32 in what is fp32, unless --tf32 false.",
        aliases=["--compile"],
    )
    use_cpu: bool = toggle(False, "Train on the CPU also where there is a GPU.")
    save_steps: float = setting(500, "A checkpoint every so many optimizer steps.")
    save_total_limit: int | None = setting(2, "Checkpoints kept, at least 2.")
    logging_steps: float = setting(50, "Log every so many optimizer steps.")
    logging_nan_inf_filter: bool = toggle(False, "Off: it hides NaN and synchronises the device at every step.")
    report_to: str | None = setting("none", "tensorboard, wandb, … or none.")
    dataloader_num_workers: int = setting(2, "Processes that decode and augment.")
    dataloader_persistent_workers: bool = toggle(
        True,
        "They live as long as the run and read the next epoch's images before this one ends; false ends them with it.",
    )
    dataloader_drop_last: bool = toggle(True, "On: BatchNorm wants full batches.")
    remove_unused_columns: bool = toggle(False, "Off: the views are not model columns.")
    ddp_broadcast_buffers: bool | None = toggle(False, "Off: queues are equal anyway, and 8 MB a step are saved.")
    ddp_find_unused_parameters: bool | None = toggle(False, "Off: every trainable parameter takes part in every step.")


def check_schedules(options: PretrainingOptions) -> None:
    """Refuses a curve that is none, and two ends of the window of synthesis."""
    check_layer_decay(options.layer_decay)
    if options.learning_rate_curve not in (PAPER, AUTHORS_CODE):
        raise ValueError(
            f"--learning-rate-curve {options.learning_rate_curve!r} is unknown: use {PAPER} or {AUTHORS_CODE}."
            + suggest(options.learning_rate_curve, (PAPER, AUTHORS_CODE))
        )
    if options.synthetic_last_epoch is not None and options.synthetic_cooldown_epochs is not None:
        raise ValueError(
            f"--synthetic-last-epoch {options.synthetic_last_epoch:g} and --synthetic-cooldown-epochs "
            f"{options.synthetic_cooldown_epochs:g} both say where synthesis ends: give one of them."
        )
