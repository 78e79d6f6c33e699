"""Accuracy of the weighted k-nearest-neighbour vote as an `evaluate` metric."""

import datasets
import evaluate
import torch

from synco_hub.metrics import top_k_accuracy, weighted_knn_vote

_DESCRIPTION = (
    "Share of the images whose class gets most of their neighbours' votes, each exp(similarity / temperature)."
)
_ARGUMENTS = """
predictions: similarities of the neighbours, the nearest first, one list an image.
neighbour_labels: class indices of the neighbours, one list an image.
references: class indices.
num_classes: number of classes.
k: how many neighbours vote, all by default.
temperature: 0.07 by default.
"""


class WeightedKnnAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Accuracy of the weighted k-nearest-neighbour vote as an `evaluate` metric."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_ARGUMENTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "neighbour_labels": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(
        self,
        predictions: list[list[float]],
        neighbour_labels: list[list[int]],
        references: list[int],
        num_classes: int,
        k: int | None = None,
        temperature: float = 0.07,
    ) -> dict[str, float]:
        votes = weighted_knn_vote(
            torch.tensor(predictions), torch.tensor(neighbour_labels), num_classes, k, temperature
        )
        return {"weighted_knn_accuracy": top_k_accuracy(votes, torch.tensor(references))}
