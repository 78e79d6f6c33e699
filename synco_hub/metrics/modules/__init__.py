"""The metrics as modules that the `evaluate` library loads by path, without a network."""

from __future__ import annotations

from pathlib import Path

METRIC_MODULES = (
    "top_k_accuracy",
    "mean_per_class_accuracy",
    "voc_map_11_point",
    "weighted_knn_accuracy",
    "out_of_distribution",
    "corruption_error",
)


def metric_module_path(name: str) -> str:
    """The folder to give to `evaluate.load`.

    Args:
        name: One of `METRIC_MODULES`.

    Raises:
        ValueError: If there is no such module.
    """
    if name not in METRIC_MODULES:
        raise ValueError(f"metric module {name!r} is unknown: use one of {', '.join(METRIC_MODULES)}")
    return str(Path(__file__).parent / name)
