"""The paper's numbers, each once, with the section it stands in.

`PretrainingSettings` defines the network and the objective and is saved in `config.pretraining`;
`SynCoTrainingArguments` defines how it is trained. Every field is a command-line flag.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from synco_hub.data.views.transform import AUTO, resolved_place
from synco_hub.errors import suggest
from trainers.contrast.synthetic_draws import SyntheticNegativesConfig
from trainers.objectives import OBJECTIVES
from trainers.schedules import scaled_learning_rate
from trainers.training_checks import refuse_ignored, refuse_impossible

# The numbers of the synthesis stand in `SyntheticNegativesConfig`; here they become flags.
_SYNTHESIS = SyntheticNegativesConfig()

logger = logging.getLogger(__name__)

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

    method: str = field(
        default="synco-v2",
        metadata={"help": "synco-v2 (synthetic hard negatives), moby (real ones only) or byol (none)."},
    )
    projection_hidden_dim: int = field(default=4096, metadata={"help": "Hidden width of both heads (7.2)."})
    projection_dim: int = field(default=256, metadata={"help": "Output dimension of both heads (7.2)."})
    head_norm: str = field(
        default="batch",
        metadata={"help": "Norm between the layers of a head: batch (7.2), or none for comparisons across batches."},
    )
    online_drop_path_rate: float | None = field(
        default=None, metadata={"help": "Stochastic depth of the online encoder: 0.2, and 0.0 for BYOL (7.4)."}
    )
    target_drop_path_rate: float = field(
        default=0.0, metadata={"help": "Stochastic depth of the target encoder (7.4)."}
    )
    queue_size: int = field(default=4096, metadata={"help": "Keys K in each memory queue (7.4)."})
    temperature: float = field(
        default=_SYNTHESIS.temperature, metadata={"help": "Temperature τ of the contrastive loss (7.4)."}
    )
    num_hard_negatives: int = field(
        default=_SYNTHESIS.num_hard_negatives,
        metadata={"help": "N, the negatives most similar to the query that synthesis starts from (7.4)."},
    )
    num_interpolation: int = field(
        default=_SYNTHESIS.counts["interpolation"], metadata={"help": "Synthetic negatives αq + (1−α)n (7.4)."}
    )
    num_extrapolation: int = field(
        default=_SYNTHESIS.counts["extrapolation"], metadata={"help": "Synthetic negatives q + β(n − q) (7.4)."}
    )
    num_mixup: int = field(
        default=_SYNTHESIS.counts["mixup"], metadata={"help": "Synthetic negatives γn + (1−γ)n′ (7.4)."}
    )
    num_noise_injection: int = field(
        default=_SYNTHESIS.counts["noise_injection"], metadata={"help": "Synthetic negatives n + σε (7.4)."}
    )
    num_gradient_perturbation: int = field(
        default=_SYNTHESIS.counts["gradient_perturbation"], metadata={"help": "Synthetic negatives n + δq (7.4)."}
    )
    num_adversarial_perturbation: int = field(
        default=_SYNTHESIS.counts["adversarial_perturbation"],
        metadata={"help": "Synthetic negatives n + η·sign(q) (7.4)."},
    )
    interpolation_max: float = field(
        default=_SYNTHESIS.interpolation_range[1], metadata={"help": "α is uniform in (0, this) (7.4)."}
    )
    extrapolation_max: float = field(
        default=_SYNTHESIS.extrapolation_range[1], metadata={"help": "β is uniform in (1, this) (7.4)."}
    )
    mixup_max: float = field(default=_SYNTHESIS.mixup_range[1], metadata={"help": "γ is uniform in (0, this) (7.4)."})
    noise_std: float = field(default=_SYNTHESIS.noise_std, metadata={"help": "σ of the noise negatives (7.4)."})
    gradient_step: float = field(
        default=_SYNTHESIS.gradient_step, metadata={"help": "δ of the gradient negatives (7.4)."}
    )
    adversarial_step: float = field(
        default=_SYNTHESIS.adversarial_step, metadata={"help": "η of the adversarial negatives (7.4)."}
    )

    def __post_init__(self) -> None:
        if self.method not in OBJECTIVES:
            raise ValueError(
                f"method={self.method!r} is unknown: use one of {', '.join(OBJECTIVES)}."
                + suggest(self.method, OBJECTIVES)
            )
        if self.online_drop_path_rate is None:
            self.online_drop_path_rate = 0.0 if self.method == "byol" else 0.2
        if self.head_norm not in ("batch", "none"):
            raise ValueError(f"head_norm={self.head_norm!r} is unknown: use 'batch' (the paper) or 'none'.")
        for name in ("projection_hidden_dim", "projection_dim", "queue_size", "num_hard_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive: give at least 1.")
        for name, count in self.counts.items():
            if count < 0:
                raise ValueError(f"num_{name}={count} is negative: give 0 to leave the strategy out, or more.")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} is not positive: the paper uses 0.2.")
        if self.method == "synco-v2" and self.num_hard_negatives > self.queue_size:
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

    @classmethod
    def from_dict(cls, values: dict[str, Any] | None) -> PretrainingSettings:
        """Read what `config.pretraining` holds; None gives the paper's defaults.

        Raises:
            ValueError: If a key is unknown, naming the nearest, or as `without_retired`.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        values = without_retired(values or {}, "config.pretraining")
        for name in values:
            if name not in known:
                raise ValueError(f"config.pretraining has an unknown key {name!r}.{suggest(name, known)}")
        return cls(**values)


def without_retired(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings as an earlier version wrote them, without those that are no more.

    Raises:
        ValueError: If one of them, or of those that are still there, has a value that is no longer known.
    """
    for name, value in values.items():
        if value in RETIRED_VALUES.get(name, ()) or value not in RETIRED.get(name, (value,)):
            raise ValueError(
                f"{where} has {name}={value!r}, which an earlier version knew and this one does not: start a new run "
                f"without it, or continue with the version that began it."
            )
    return {name: value for name, value in values.items() if name not in RETIRED}


@dataclass
class SynCoTrainingArguments(TrainingArguments):
    """How to pretrain (paper section 7.4); where `TrainingArguments` silently contradicts the paper, the paper wins.

    The learning rate is `base_learning_rate` × (micro-batch × processes × accumulation) / 512 unless
    `learning_rate` is given, which is used as it is.
    """

    _argument_group_name: ClassVar[str] = "training (section 7.4; the rest are transformers.TrainingArguments)"

    num_train_epochs: float = field(default=300, metadata={"help": "Epochs of pretraining (7.4)."})
    per_device_train_batch_size: int = field(
        default=128, metadata={"help": "Images per process and step; the paper uses 128 on each of 4 GPUs (7.4)."}
    )
    base_learning_rate: float = field(
        default=1.5e-4, metadata={"help": "Learning rate at a global batch of 512, scaled linearly (7.4)."}
    )
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Peak learning rate, used as it is; default: the scaled base rate."}
    )
    weight_decay: float = field(default=0.1, metadata={"help": "AdamW weight decay, not on norms or biases (7.4)."})
    warmup_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of linear warm-up; default: 40 / 300 of the run (7.4)."}
    )
    learning_rate_start: float = field(default=0.0, metadata={"help": "Learning rate at the first step (7.4: 0)."})
    learning_rate_end: float = field(default=0.0, metadata={"help": "Learning rate at the end of the run (7.4: 0)."})
    decay_tokens_and_tables: bool = field(
        default=False, metadata={"help": "Weight decay also on class tokens and relative position bias tables."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; the paper names none: 0 is off."})
    momentum_start: float = field(default=0.99, metadata={"help": "Momentum of the target at the start (7.4)."})
    synthetic_warmup_epochs: float | None = field(
        default=None, metadata={"help": "First epochs without synthetic negatives; default: a tenth (7.4: 30 of 300)."}
    )
    synthetic_cooldown_epochs: float | None = field(
        default=None, metadata={"help": "Last epochs without them; default: a third of the run (7.4: 100 of 300)."}
    )
    augment_on: str = field(
        default=AUTO,
        metadata={
            "help": "Where views are distorted: worker (by OpenCV in the loading processes), device (crops from them, "
            "all else for a whole batch on the GPU), auto: device on a GPU, else worker."
        },
    )
    max_bad_fraction: float = field(
        default=0.01, metadata={"help": "Share of the data set that may be unreadable before the run fails."}
    )
    knn_every_epochs: float | None = field(
        default=None,
        metadata={"help": "Measure k-NN accuracy every so many epochs; the images need classes, see --knn-dataset."},
    )
    resume: bool = field(default=False, metadata={"help": "Continue from the newest whole checkpoint, if any."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Off: the views are not model columns."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Off: it hides NaN and synchronises the device at every step."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every so many optimizer steps."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept, at least 2."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "On: BatchNorm wants full batches."})
    dataloader_num_workers: int = field(default=2, metadata={"help": "Processes that decode and augment."})
    ddp_broadcast_buffers: bool | None = field(
        default=False, metadata={"help": "Off: queues are equal anyway, and 8 MB a step are saved."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Off: every trainable parameter takes part in every step."}
    )
    torch_compile: bool = field(
        default=False, metadata={"aliases": ["--compile"], "help": "Compile the network by torch.compile."}
    )
    report_to: str | None = field(  # type: ignore[assignment]
        default="none", metadata={"help": "tensorboard, wandb, … or none."}
    )

    def __post_init__(self) -> None:
        refuse_impossible(vars(self))
        refuse_ignored(vars(self), {f.name: f.default for f in dataclasses.fields(self)})
        if self.disable_tqdm is None:
            # The Trainer would hide the bar because its library was told to write no warnings.
            self.disable_tqdm = False
        given = self.learning_rate
        self.learning_rate = 0.0 if given is None else given
        super().__post_init__()  # type: ignore[no-untyped-call]
        # torch's DataParallel would give each replica its own copy of the queues; several GPUs take several processes.
        self._n_gpu = min(self._n_gpu, 1)
        # Pinned memory speeds the way to an accelerator; without one torch warns about it.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type == "cuda"
        # From pinned memory a copy need not hold up the step before it.
        loading = cast(AcceleratorConfig, self.accelerator_config)
        loading.non_blocking = loading.non_blocking or self.dataloader_pin_memory
        self.augment_on = resolved_place(self.augment_on, self.device.type)
        if given is None:
            self.learning_rate = scaled_learning_rate(self.base_learning_rate, self.global_batch_size)
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise ValueError(
                f"save_total_limit={self.save_total_limit} would delete the only whole checkpoint while the next is "
                "written: give at least 2, or write none at all (--save-strategy no)."
            )

    @property
    def global_batch_size(self) -> int:
        """Images per optimizer step: micro-batch × processes × accumulation steps."""
        return self.per_device_train_batch_size * self.world_size * self.gradient_accumulation_steps

    def warmup_steps_of(self, total_steps: int, steps_per_epoch: float) -> int:
        """Optimizer steps of the learning-rate warm-up: 40 of 300 epochs, or as given."""
        if self.warmup_epochs is None:
            return round(total_steps * 40 / 300)
        return round(self.warmup_epochs * steps_per_epoch)
