"""Fine-tuning: every weight adapts to the labelled images (paper section 7.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from trainers.classification.classification_arguments import FineTuningArguments
from trainers.classification.classification_loss import classification_loss
from trainers.classification.classification_trainer import ClassificationTrainer
from trainers.pretraining_trainer import NO_WEIGHT_DECAY


class FineTuningTrainer(ClassificationTrainer):
    """Trains an image classifier of `transformers` as a whole, by SGD."""

    args: FineTuningArguments

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """SGD with momentum; no weight decay on norms, biases, tokens and tables, as in pretraining (our choice)."""
        if self.optimizer is None:
            model = cast(nn.Module, self.accelerator.unwrap_model(self.model))
            groups = param_groups_weight_decay(model, self.args.weight_decay, no_weight_decay_list=NO_WEIGHT_DECAY)
            self.optimizer = torch.optim.SGD(groups, lr=self.args.learning_rate or 0.0, momentum=self.args.momentum)
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
