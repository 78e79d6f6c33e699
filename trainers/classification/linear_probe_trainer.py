"""Linear probing: heads for every learning rate on the features of one frozen network (paper section 7.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from synco_hub.evaluation.classification import ClassificationTargets
from synco_hub.feature_pooling import FeatureRule, feature_network, image_features
from trainers.classification.classification_arguments import LinearProbeArguments
from trainers.classification.classification_trainer import ClassificationTrainer
from trainers.classification.linear_heads import LinearHeads


class LinearProbeTrainer(ClassificationTrainer):
    """Trains `LinearHeads` side by side; the network below stays in eval mode and out of checkpoints.

    Args:
        heads: One head for each learning rate.
        args: How to train them.
        train_dataset: Augmented images, or cached features.
        eval_dataset: Centre crops, or cached features.
        eval_targets: Targets of the test split.
        backbone: The frozen network; None for cached features.
        rule: Which feature the heads read.
        base_rates: Base learning rate of each head.
    """

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
        self.backbone = None if backbone is None else feature_network(backbone).eval().to(args.device)
        self.rule = rule
        self.base_rates = tuple(base_rates)

    def features(self, inputs: Mapping[str, Any]) -> Tensor:
        """Frozen features of a batch, without gradients. Shape: (batch, dim)."""
        if self.backbone is None:
            return inputs["features"]  # type: ignore[no-any-return]
        with torch.no_grad():
            return image_features(self.backbone, inputs["pixel_values"], self.rule).float()

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
