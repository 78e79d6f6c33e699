"""Mean per-class accuracy as an `evaluate` metric."""

import datasets
import evaluate
import torch

from synco_hub.metrics import mean_per_class_accuracy

_DESCRIPTION = "Mean over the classes of the share of their images that are classified rightly."
_ARGUMENTS = """
predictions: scores of each class, one list an image.
references: class indices.
"""


class MeanPerClassAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Mean per-class accuracy as an `evaluate` metric."""

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

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        value = mean_per_class_accuracy(torch.tensor(predictions), torch.tensor(references))
        return {"mean_per_class_accuracy": value}
