"""Average precision of the weighted k-NN vote where an image can have several classes, as in PASCAL VOC 2007.

Every neighbour votes for each of its classes; what is measured is how well the share of the votes ranks the images of
a class. DINO's protocol has one class an image: this is the same vote, scored as probing scores PASCAL VOC 2007.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synco_hub.evaluation.neighbours.knn_accuracy import check_temperature
from synco_hub.evaluation.neighbours.nearest_neighbours import nearest_neighbours
from synco_hub.features import check_finite
from synco_hub.metrics import average_precision, voc_average_precision_11_point
from synco_hub.metrics.weighted_knn_vote import TEMPERATURE

_VOTED_TOGETHER = 1024


def knn_average_precision(
    bank_features: Tensor,
    bank_targets: Tensor,
    query_features: Tensor,
    query_targets: Tensor,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, float]:
    """Mean average precision of the vote for every k, from one search.

    Args:
        bank_features: Shape: (bank, dim).
        bank_targets: 1 present, 0 absent, -1 neither. Shape: (bank, num_classes).
        query_features: Shape: (queries, dim).
        query_targets: As the bank's. Shape: (queries, num_classes).
        ks: Numbers of neighbours, each from 1 to the size of the bank.
        temperature: Temperature of the vote, above 0.
        device: Where similarities are computed; the vote is always counted on the CPU.
        progress: Show a progress bar.

    Returns:
        ``map_11_point_k<k>`` and ``map_integral_k<k>`` for every k; in percent.

    Raises:
        ValueError: If shapes do not fit, a feature is NaN, no class has an image, or a k or the temperature is out of
            range.
    """
    for name, features, targets in (
        ("training", bank_features, bank_targets),
        ("test", query_features, query_targets),
    ):
        if features.ndim != 2 or targets.shape != (len(features), bank_targets.shape[-1]) or not len(features):
            raise ValueError(
                f"{name} features {tuple(features.shape)} and targets {tuple(targets.shape)} do not fit: give "
                "(images, dim) features and one row of classes an image, at least one"
            )
        check_finite(features)
    if not ks or min(ks) < 1 or max(ks) > len(bank_features):
        raise ValueError(
            f"ks={tuple(ks)} with {len(bank_features)} training images: choose each from 1 to their number"
        )
    check_temperature(temperature)
    found = nearest_neighbours(bank_features, query_features, max(ks), device, progress=progress)
    metrics = {}
    for k in sorted(set(ks)):
        blocks = [
            _shares(found.similarities[rows, :k], bank_targets[found.indices[rows, :k]], temperature)
            for rows in map(_rows, range(0, len(query_features), _VOTED_TOGETHER))
        ]
        scores = torch.cat(blocks)
        metrics[f"map_11_point_k{k}"] = 100.0 * voc_average_precision_11_point(scores, query_targets)
        metrics[f"map_integral_k{k}"] = 100.0 * average_precision(scores, query_targets)
    return metrics


def _rows(start: int) -> slice:
    return slice(start, start + _VOTED_TOGETHER)


def _shares(similarities: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Share of the counting votes that each class got.

    Args:
        similarities: Shape: (queries, k).
        targets: Shape: (queries, k, num_classes).
        temperature: See above.

    Returns:
        Shape: (queries, num_classes).
    """
    weights = torch.exp((similarities.double() - similarities.double().amax(dim=1, keepdim=True)) / temperature)
    votes = (weights[:, :, None] * (targets == 1)).sum(dim=1)
    counting = (weights[:, :, None] * (targets >= 0)).sum(dim=1)
    return votes / counting.clamp(min=torch.finfo(torch.float64).tiny)
