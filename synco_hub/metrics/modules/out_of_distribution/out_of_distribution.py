"""FPR95, AUROC and AUPR of a detector as an `evaluate` metric."""

import datasets
import evaluate
import torch

from synco_hub.metrics import area_under_roc, average_precision, fpr_at_recall

_DESCRIPTION = "How well a score tells positives (out of distribution) from negatives."
_ARGUMENTS = """
predictions: a score an image, the higher the more positive.
references: 1 positive, 0 negative.
recall: where the false positive rate is read, 0.95 by default.
"""


class OutOfDistribution(evaluate.Metric):  # type: ignore[misc]
    """FPR95, AUROC and AUPR of a detector as an `evaluate` metric."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_ARGUMENTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float32"),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list[float], references: list[int], recall: float = 0.95) -> dict[str, float]:
        scores, targets = torch.tensor(predictions), torch.tensor(references)
        return {
            f"fpr{round(100 * recall)}": fpr_at_recall(scores, targets, recall),
            "auroc": area_under_roc(scores, targets),
            "aupr": average_precision(scores, targets),
        }
