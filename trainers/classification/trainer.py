"""Trainers of linear probing (7.5) and fine-tuning (7.6): SGD with warm-up and cosine, measured on the test split."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from tqdm import tqdm

from synco_hub.data import EpochSampler, UnreadableImages
from synco_hub.data.worker_signals import worker_settings
from synco_hub.errors import explain_out_of_memory
from synco_hub.evaluation.classification import ClassificationScores, ClassificationTargets
from synco_hub.feature_pooling import FeatureRule, compute_image_features, find_feature_network
from trainers.callbacks import EpochCallback, LastLogCallback, TrainBeginCallback
from trainers.classification.arguments import (
    PRIMARY,
    ClassificationArguments,
    FineTuningArguments,
    LinearProbeArguments,
)
from trainers.classification.heads import LinearHeads, classification_loss, mask_targets
from trainers.classification.settings import SETTINGS_FILE
from trainers.compilation import compile_in_place, expect_other_batch_sizes
from trainers.layer_decay import NO_WEIGHT_DECAY, make_groups
from trainers.runs.checkpointing_trainer import CheckpointingTrainer
from trainers.runs.checkpoints import claim_directory, read_settings, write_json
from trainers.schedules import learning_rate_factor

logger = logging.getLogger(__name__)

# The square of anything larger is infinite in float32, so the weights behind it are as good as broken.
LARGEST_LOSS = 1e19


class ClassificationTrainer(CheckpointingTrainer):
    """Trains a classifier on labelled images and measures it on the test split; a subclass says what is trained.

    Args:
        model: What is optimized.
        args: How.
        train_dataset: Indexed by (epoch, index), see `trainers.classification.data.AugmentedDataset`.
        eval_dataset: Items with `index`, `bad_index` and what :meth:`scores` reads.
        eval_targets: Targets of the test split.
        **kwargs: What `transformers.Trainer` takes.
    """

    args: ClassificationArguments

    def __init__(
        self,
        model: nn.Module,
        args: ClassificationArguments,
        train_dataset: Any,
        eval_dataset: Any,
        eval_targets: ClassificationTargets,
        **kwargs: Any,
    ) -> None:
        args.fit_to(len(train_dataset))
        if args.metric_for_best_model == PRIMARY:
            args.metric_for_best_model = eval_targets.primary_metric
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        self.eval_targets = eval_targets
        self.num_images = len(train_dataset)
        self.train_ledger = UnreadableImages(train_dataset, args.max_bad_fraction)
        self.eval_ledger = UnreadableImages(eval_dataset, args.max_bad_fraction)
        self.epoch_sampler: EpochSampler | None = None
        self._bad_indices: list[Tensor] = []
        self.add_callback(EpochCallback(self))
        self.add_callback(LastLogCallback())

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As the Trainer; what is compiled is told that the last batch may be a smaller one."""
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        for name in ("pixel_values", "features"):
            if self.args.torch_compile and name in prepared:
                expect_other_batch_sizes(prepared[name])
        return prepared

    def claim(self, directory: Path, settings: dict[str, Any]) -> None:
        """Make a folder this run's; the flags are kept when it goes on with them, and not if it is refused."""
        if not self.is_world_process_zero():
            return
        flags = {"flags": list(self.args.given_flags)}
        held = read_settings(directory, ("flags",), SETTINGS_FILE) if self.resumes else flags
        claim_directory(directory, {**settings, **held}, self.resumes, SETTINGS_FILE, identity=None)
        kept = json.loads(json.dumps({**settings, **flags}, default=str))
        self.add_callback(TrainBeginCallback(lambda: write_json(directory / SETTINGS_FILE, kept)))

    def train_and_measure(self) -> None:
        """Train, from the newest complete checkpoint if the run is resumed, and measure the end of it."""
        self.train()
        received = self.interruption.received
        if received is not None and self.state.global_step < self.state.max_steps:
            logger.warning("stopped by %s at step %d; continue with --resume", received.name, self.state.global_step)
            sys.exit(128 + received)
        self.refuse_broken_weights()
        if self.args.load_best_model_at_end:
            self._take_best_weights()
            return
        measured_at = [entry["step"] for entry in self.state.log_history if any("eval_" in key for key in entry)]
        if not measured_at or measured_at[-1] != self.state.global_step:
            self.evaluate()

    def _take_best_weights(self) -> None:
        """Make sure that the weights of the best measurement are those that will be kept."""
        best = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}"
        if not best.is_dir():
            raise ValueError(
                f"{best} has the best weights of this run and is not there: put it back, or leave out "
                "--load-best-model-at-end."
            )
        self.state.best_model_checkpoint = str(best)
        self._load_best_model()

    @property
    def kept_history(self) -> list[dict[str, Any]]:
        """The log up to the step whose weights are kept."""
        history: list[dict[str, Any]] = self.state.log_history
        if not self.args.load_best_model_at_end:
            return history
        return [entry for entry in history if entry["step"] <= (self.state.best_global_step or 0)]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a result says of the weights that are kept."""
        real = self.eval_targets.notes(self.eval_ledger.indices)
        if not self.args.load_best_model_at_end:
            chosen = "metrics named best_epoch were chosen on the test split; last_epoch is the protocol's number"
            return (chosen, *real)
        return (
            f"the weights are those of step {self.state.best_global_step}, the best {self.args.metric_for_best_model} "
            "on the test split (--load-best-model-at-end); last_epoch is their epoch",
            *real,
        )

    def describe_training(self) -> dict[str, Any]:
        """What a result says of how it was trained, as it was."""
        return {
            "steps": self.state.global_step,
            "precision": self.precision,
            "num_processes": self.args.world_size,
        }

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As the Trainer; of several classifiers trained side by side the best one counts."""
        wanted = self.args.metric_for_best_model
        if wanted is not None:
            name = f"eval_{wanted.removeprefix('eval_')}"
            values = [value for key, value in metrics.items() if key == name or key.startswith(f"{name}_lr")]
            if not values:
                known = ", ".join(key.removeprefix("eval_") for key in metrics)
                raise ValueError(f"--metric-for-best-model {wanted} is not measured here: give one of {known}.")
            metrics = {**metrics, name: max(values) if self.args.greater_is_better else min(values)}
        return super()._determine_best_metric(metrics, trial)

    @property
    def is_partial(self) -> bool:
        """Whether the run counts steps in place of epochs, or was ended before its last step."""
        return self.args.max_steps > 0 or self.state.global_step < self.state.max_steps

    def scores(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Scores of a test batch by a suffix for its metrics: "" for a single classifier. Shape: (batch, classes)."""
        raise NotImplementedError

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[tuple[int, int]]:
        self.epoch_sampler = EpochSampler(self.num_images, seed=self.args.seed)
        return self.epoch_sampler

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Linear warm-up from zero, then a cosine to zero, per optimizer step (7.6; our choice for 7.5)."""
        if self.lr_scheduler is None:
            warmup = self.args.count_warmup_steps(num_training_steps, self.steps_per_epoch)
            self.lr_scheduler = LambdaLR(
                cast(torch.optim.Optimizer, optimizer or self.optimizer),
                lambda step: learning_rate_factor(step, num_training_steps, warmup),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def counted_targets(self, inputs: Mapping[str, Any]) -> Tensor:
        """Targets of a training batch, unreadable images not counting; enters those into the ledger."""
        bad = inputs["bad_index"]
        self._bad_indices.append(bad)
        return mask_targets(inputs["target"], bad >= 0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The one place where training waits for the device: unreadable images and a broken loss stop the run here."""
        if self._bad_indices and ("loss" in logs or "train_loss" in logs):
            indices = torch.cat(self._bad_indices)
            self._bad_indices = []
            self.train_ledger.record(
                self.accelerator.gather(self.accelerator.pad_across_processes(indices, pad_index=-1)).cpu()
            )
        # The mean of the whole run comes at its end, also if no step is logged.
        loss = logs.get("loss", logs.get("train_loss", 0.0))
        if not abs(loss) < LARGEST_LOSS:
            raise FloatingPointError(
                f"The loss is {loss} near step {self.state.global_step}: lower the learning rate, or check "
                "the images and the checkpoint."
            )
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the test split: every process a part of it, every metric over the whole."""
        with explain_out_of_memory(self.describe_load):
            return self._measure(eval_dataset, metric_key_prefix)

    def _measure(self, eval_dataset: Any, metric_key_prefix: str) -> dict[str, float]:
        self.refuse_broken_weights()
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        names = self.eval_targets.class_names
        kept: dict[str, ClassificationScores] = {}
        bad: list[int] = []
        cast(nn.Module, self.model).eval()
        for batch in self._test_batches(dataset):
            good = batch["bad_index"] < 0
            bad += batch["bad_index"][~good].tolist()
            targets, real = self.eval_targets.values[batch["index"]], self.eval_targets.real_rows(batch["index"][good])
            with torch.no_grad(), self.compute_loss_context_manager():
                scores = self.scores(self._prepare_inputs(dict(batch)))
            for suffix, values in scores.items():
                keeper = kept.setdefault(suffix, ClassificationScores(len(names), self.eval_targets.multi_label))
                keeper.add(values.cpu()[good], targets[good], real)
        gathered = gather_object([(kept, bad)]) if self.args.world_size > 1 else [(kept, bad)]
        self.eval_ledger.record(index for _, part in gathered for index in part)
        metrics = {
            f"{metric_key_prefix}_{name}{suffix}": value
            for suffix, keeper in _merge_scores([part for part, _ in gathered]).items()
            for name, value in keeper.metrics().items()
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _test_batches(self, dataset: Any) -> Any:
        part = Subset(
            cast("Dataset[Any]", dataset), range(self.args.process_index, len(dataset), self.args.world_size)
        )
        loader: DataLoader[Any] = DataLoader(
            part,
            batch_size=self.args.per_device_eval_batch_size,
            **worker_settings(self.args.dataloader_num_workers),
            pin_memory=self.args.device.type == "cuda",
        )
        hidden = self.args.disable_tqdm or not self.is_world_process_zero()
        return tqdm(loader, desc="test split", unit="batch", leave=False, disable=hidden)


def _merge_scores(parts: list[dict[str, ClassificationScores]]) -> dict[str, ClassificationScores]:
    """The scores of all processes as if one had collected them."""
    whole: dict[str, ClassificationScores] = {}
    for part in parts:
        for suffix, keeper in part.items():
            joined = whole.setdefault(suffix, ClassificationScores(keeper.num_classes, keeper.multi_label))
            joined.take_all_of(keeper)
    return whole


class LinearProbeTrainer(ClassificationTrainer):
    """Trains `LinearHeads` side by side; the network below stays in eval mode and out of checkpoints."""

    args: LinearProbeArguments
    model: LinearHeads

    def __init__(
        self,
        heads: LinearHeads,
        args: LinearProbeArguments,
        train_dataset: Any,
        eval_dataset: Any,
        eval_targets: ClassificationTargets,
        backbone: nn.Module | None,
        rule: FeatureRule,
        base_rates: Sequence[float],
    ) -> None:
        super().__init__(heads, args, train_dataset, eval_dataset, eval_targets)
        # No submodule of what is trained: neither the optimizer, nor checkpoints, nor `train()` reach it.
        self.backbone = None if backbone is None else find_feature_network(backbone).eval().to(args.device)
        self.rule = rule
        self.base_rates = tuple(base_rates)
        compile_in_place(self, heads if self.backbone is None else self.backbone)

    def describe_load(self) -> tuple[str, str]:
        """As `CheckpointingTrainer.describe_load`; what takes the memory is the frozen network."""
        network = self.accelerator.unwrap_model(self.model) if self.backbone is None else self.backbone
        return self.args.describe_load(network, True, not self.model.training)

    def features(self, inputs: Mapping[str, Any]) -> Tensor:
        """Frozen features of a batch, without gradients. Shape: (batch, dim)."""
        if self.backbone is None:
            return inputs["features"]  # type: ignore[no-any-return]
        with torch.no_grad():
            return compute_image_features(self.backbone, inputs["pixel_values"], self.rule).float()

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """SGD with momentum; a group for each head, so that one schedule serves all rates."""
        if self.optimizer is None:
            heads = self.accelerator.unwrap_model(self.model)
            groups = [
                {"params": [heads.weights[index], heads.biases[index]], "lr": self.args.scaled(rate)}
                for index, rate in enumerate(self.base_rates)
            ]
            self.optimizer = torch.optim.SGD(groups, momentum=self.args.momentum, weight_decay=self.args.weight_decay)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of the heads' losses, so that each head's gradient is its own."""
        output = model(self.features(inputs), self.counted_targets(inputs))
        return (output["loss"], output) if return_outputs else output["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Show the mean loss of the heads rather than their sum."""
        shown = {**logs, "loss": logs["loss"] / len(self.base_rates)} if "loss" in logs else logs
        super().log(shown, start_time)

    def scores(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Logits of every head, by `_lr<base rate>`."""
        logits = self.accelerator.unwrap_model(self.model)(self.features(batch))["logits"]
        return {f"_lr{rate:g}": logits[index] for index, rate in enumerate(self.base_rates)}


class FineTuningTrainer(ClassificationTrainer):
    """Trains an image classifier of `transformers` as a whole, by SGD."""

    args: FineTuningArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        compile_in_place(self, cast(nn.Module, self.accelerator.unwrap_model(self.model)))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """SGD with momentum; no weight decay on norms, biases, tokens and tables, as in pretraining (our choice)."""
        if self.optimizer is None:
            model = cast(nn.Module, self.accelerator.unwrap_model(self.model))
            rate, decay = self.args.learning_rate or 0.0, self.args.weight_decay
            if self.args.layer_decay == 1:
                groups = param_groups_weight_decay(model, decay, no_weight_decay_list=NO_WEIGHT_DECAY)
            else:
                groups = make_groups(model, model, decay, rate, self.args.layer_decay)
            self.optimizer = torch.optim.SGD(groups, lr=rate, momentum=self.args.momentum)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Label-smoothed cross-entropy, or binary cross-entropy for several classes an image."""
        output = model(pixel_values=inputs["pixel_values"])
        loss = classification_loss(output.logits, self.counted_targets(inputs), self.args.label_smoothing)
        return (loss, output) if return_outputs else loss

    def scores(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Logits of the one classifier."""
        model = cast(nn.Module, self.accelerator.unwrap_model(self.model))
        return {"": model(pixel_values=batch["pixel_values"]).logits}
