"""The loss of probing and fine-tuning: label-smoothed cross-entropy, or binary cross-entropy for several classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Targets with this value belong to images that could not be read; they do not count.
IGNORED = -100


def classification_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """Mean loss of a batch.

    Args:
        logits: Shape: (batch, num_classes).
        targets: Class indices (batch,), or multi-hot (batch, num_classes); negative cells do not count.
        label_smoothing: Share of the target that is spread over all classes; for class indices only, because binary
            cross-entropy has no classes to spread over.

    Returns:
        Mean over the images (or cells) that count; 0 if none does.

    Source: paper sections 7.5 and 7.6.
    """
    if targets.ndim == 1:
        total = F.cross_entropy(
            logits.float(), targets, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
        )
        return total / (targets != IGNORED).sum().clamp(min=1)
    counts = (targets >= 0).float()
    cells = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0), reduction="none")
    return (cells * counts).sum() / counts.sum().clamp(min=1)


def masked_targets(targets: Tensor, unreadable: Tensor) -> Tensor:
    """Targets in which unreadable images do not count.

    Args:
        targets: Class indices (batch,) or multi-hot (batch, num_classes).
        unreadable: Shape: (batch,), bool.
    """
    rows = unreadable if targets.ndim == 1 else unreadable[:, None]
    return torch.where(rows, torch.full_like(targets, IGNORED), targets)
