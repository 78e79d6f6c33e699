"""11-point mean average precision of PASCAL VOC 2007 as an `evaluate` metric."""

import datasets
import evaluate
import torch

from synco_hub.metrics import average_precision, voc_average_precision_11_point

_DESCRIPTION = "Mean over the classes of the 11-point average precision; the step-wise integral beside it."
_ARGUMENTS = """
predictions: scores of each class, one list an image.
references: 1 present, 0 absent, -1 difficult (left out), one list an image.
"""


class VocMap11Point(evaluate.Metric):  # type: ignore[misc]
    """11-point mean average precision of PASCAL VOC 2007 as an `evaluate` metric."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_ARGUMENTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[list[int]]) -> dict[str, float]:
        scores, targets = torch.tensor(predictions), torch.tensor(references)
        return {
            "map_11_point": voc_average_precision_11_point(scores, targets),
            "map_integral": average_precision(scores, targets),
        }
