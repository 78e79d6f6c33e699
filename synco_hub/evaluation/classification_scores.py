"""Scores of a classifier collected batch by batch, and every metric of classification from them."""

from __future__ import annotations

import torch
from torch import Tensor

from synco_hub.metrics import average_precision, mean_per_class_share, target_ranks, voc_average_precision_11_point


class ClassificationScores:
    """Collects what the metrics need: ranks for one class an image (a number each), scores for several classes.

    Args:
        num_classes: Number of classes.
        multi_label: Whether an image can have several classes.
    """

    def __init__(self, num_classes: int, multi_label: bool) -> None:
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.kept: list[Tensor] = []
        self.targets: list[Tensor] = []

    def add(self, scores: Tensor, targets: Tensor) -> None:
        """Take a batch.

        Args:
            scores: Shape: (batch, num_classes).
            targets: Class indices (batch,), or multi-hot (batch, num_classes) with -1 for cells that do not count.

        Raises:
            ValueError: If a score is NaN, or a label out of range.
        """
        if len(targets) == 0:
            return
        scores = scores.float()
        self.kept.append((scores if self.multi_label else target_ranks(scores, targets)).cpu())
        self.targets.append(targets.cpu())

    def metrics(self) -> dict[str, float]:
        """Metrics in percent.

        Returns:
            ``top1``, from 5 classes on ``top5``, and ``mean_per_class``; or ``map_11_point`` and ``map_integral``.

        Raises:
            ValueError: If nothing was added.
        """
        if not self.kept:
            raise ValueError("no image was classified: an accuracy needs at least one; check the split")
        kept, targets = torch.cat(self.kept), torch.cat(self.targets)
        if self.multi_label:
            return {
                "map_11_point": 100.0 * voc_average_precision_11_point(kept, targets),
                "map_integral": 100.0 * average_precision(kept, targets),
            }
        guesses = (1, 5) if self.num_classes >= 5 else (1,)
        shares = {f"top{guess}": 100.0 * int((kept < guess).sum()) / len(kept) for guess in guesses}
        return {**shares, "mean_per_class": 100.0 * mean_per_class_share(kept == 0, targets, self.num_classes)}
