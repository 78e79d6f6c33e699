"""Corruption error of ImageNet-C as an `evaluate` metric."""

import datasets
import evaluate
import torch

from synco_hub.metrics import corruption_error

_DESCRIPTION = "Top-1 error under one corruption over AlexNet's."
_ARGUMENTS = """
predictions: scores of each class, one list an image; all severities, equally many images of each.
references: class indices, in the same order at every severity.
corruption: name of the corruption.
severities: how many follow each other, 5 by default.
"""


class CorruptionError(evaluate.Metric):  # type: ignore[misc]
    """Corruption error of ImageNet-C as an `evaluate` metric."""

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

    def _compute(
        self, predictions: list[list[float]], references: list[int], corruption: str, severities: int = 5
    ) -> dict[str, float]:
        scores, targets = torch.tensor(predictions), torch.tensor(references)
        if len(targets) % severities or bool(
            (targets.view(severities, -1) != targets[: len(targets) // severities]).any()
        ):
            raise ValueError(
                f"{len(targets)} references are not {severities} equal lists: give the same images at every severity"
            )
        return {
            "corruption_error": corruption_error(
                scores.unflatten(0, (severities, -1)), targets[: len(targets) // severities], corruption
            )
        }
