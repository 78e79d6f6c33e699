"""The card of a checkpoint: what it is, how it was made, which numbers were measured and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from synco_hub.atomic_write import written_whole
from synco_hub.hub.package_files import package_file
from synco_hub.results import EvaluationResult
from synco_hub.version import __version__


def write_card(
    directory: Path,
    name: str,
    config: Mapping[str, Any],
    pretraining: Mapping[str, Any],
    results: Sequence[EvaluationResult] = (),
    licence: str | None = None,
) -> None:
    """Write `README.md` of a checkpoint directory from facts alone.

    Args:
        directory: Where the checkpoint is.
        name: What it is loaded by.
        config: Its `config.json` as plain data.
        pretraining: How it was made, as plain data; nested mappings become sections of the table.
        results: Measurements of this very checkpoint; a card never shows a number without one.
        licence: SPDX identifier, if the owner of the weights has chosen one.
    """
    data = ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["self-supervised-learning", "vision", "synco"],
        model_name=name,
        eval_results=[entry for result in results for entry in _entries(result)] or None,
    )
    method = config.get("pretraining", {}).get("method", "unknown method") if config.get("pretraining") else "unknown"
    card = ModelCard.from_template(
        data,
        template_path=str(package_file("model_cards", "card_template.md")),
        title=name,
        summary=f"A {config['backbone']} backbone pretrained without labels by {method}.",
        model_id=name,
        hidden_size=config["hidden_size"],
        backbone_table=_table({key: value for key, value in config.items() if key in _BACKBONE_KEYS}),
        pretraining_table=_table(pretraining),
        results=_results_table(results),
        version=__version__,
    )
    with written_whole(directory / "README.md") as temporary:
        card.save(temporary)


_BACKBONE_KEYS = (
    "backbone",
    "image_size",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "window_size",
    "position_embedding",
    "hidden_size",
)


def _table(values: Mapping[str, Any], prefix: str = "") -> str:
    lines = ["| setting | value |", "|---|---|"] if not prefix else []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines.append(_table(value, f"{prefix}{key}."))
        elif value is not None:
            lines.append(f"| {prefix}{key} | {value} |")
    return "\n".join(line for line in lines if line)


def _entries(result: EvaluationResult) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=result.dataset.name,
            dataset_name=result.dataset.name,
            dataset_split=result.dataset.split,
            metric_type=metric,
            metric_value=value,
            metric_name=f"{result.protocol.name} {metric}",
        )
        for metric, value in result.metrics.items()
    ]


def _results_table(results: Sequence[EvaluationResult]) -> str:
    if not results:
        return "Not measured yet: `synco-hub evaluate` writes results beside the weights."
    rows = [
        f"| {r.protocol.name} | {r.dataset.name} ({r.dataset.split}) | {metric} | {value:.2f} |"
        for r in results
        for metric, value in r.metrics.items()
    ]
    return "\n".join(["| protocol | data | metric | value |", "|---|---|---|---|", *rows])
