"""Linear classifiers side by side on the same features, one for each learning rate of a grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.classification.classification_loss import classification_loss


class LinearHeads(nn.Module):
    """Heads that start equal and share nothing: each trains as if it were alone.

    The losses are added, so a head's gradient is that of its own loss; one matrix product serves all heads.

    Args:
        dim: Dimension of the features.
        num_classes: Number of classes.
        num_heads: Number of heads.
        label_smoothing: See :func:`trainers.classification.classification_loss.classification_loss`.
    """

    def __init__(self, dim: int, num_classes: int, num_heads: int, label_smoothing: float = 0.1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        weight = torch.randn(num_classes, dim) * 0.01
        self.weights = nn.ParameterList([nn.Parameter(weight.clone()) for _ in range(num_heads)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(num_classes)) for _ in range(num_heads)])

    def forward(self, features: Tensor, targets: Tensor | None = None) -> dict[str, Tensor]:
        """Classify features.

        Args:
            features: Shape: (batch, dim).
            targets: Class indices (batch,) or multi-hot (batch, num_classes).

        Returns:
            ``logits`` (num_heads, batch, num_classes) and, with targets, ``loss``, the sum over the heads.
        """
        together = F.linear(features, torch.cat(list(self.weights)), torch.cat(list(self.biases)))
        logits = together.unflatten(1, (len(self.weights), self.num_classes)).movedim(1, 0)
        if targets is None:
            return {"logits": logits}
        losses: Sequence[Tensor] = [classification_loss(head, targets, self.label_smoothing) for head in logits]
        return {"logits": logits, "loss": torch.stack(list(losses)).sum()}

    def head(self, index: int) -> tuple[Tensor, Tensor]:
        """Weight (num_classes, dim) and bias (num_classes,) of one head, detached, on the CPU."""
        return self.weights[index].detach().cpu().clone(), self.biases[index].detach().cpu().clone()
