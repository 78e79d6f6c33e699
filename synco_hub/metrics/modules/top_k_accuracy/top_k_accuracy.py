"""Top-k accuracy as an `evaluate` metric; ties go to the lower class index."""

import datasets
import evaluate
import torch

from synco_hub.metrics import top_k_accuracy

_DESCRIPTION = "Share of the images whose class is among the k with the highest scores."
_ARGUMENTS = """
predictions: scores of each class, one list an image.
references: class indices.
k: number of guesses, 1 by default.
"""


class TopKAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Top-k accuracy as an `evaluate` metric; ties go to the lower class index."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_ARGUMENTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[int], k: int = 1) -> dict[str, float]:
        value = top_k_accuracy(torch.tensor(predictions), torch.tensor(references), k)
        return {f"top{k}_accuracy": value}
