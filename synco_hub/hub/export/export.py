"""Checkpoints of this package for the rest of the world: stock transformers, timm, ONNX, plain safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from synco_hub.atomic_write import atomic_write_directory, refuse_filled
from synco_hub.errors import suggest
from synco_hub.hub.export.network import Exported, open_checkpoint
from synco_hub.hub.export.to_onnx import export_onnx
from synco_hub.hub.export.to_sentence_transformers import export_sentence_transformers
from synco_hub.hub.export.to_timm import export_safetensors, export_timm
from synco_hub.hub.export.to_transformers import export_transformers
from synco_hub.hub.short_names import resolve
from synco_hub.results import library_versions

REPORT_FILE = "export_report.json"
FORMATS: dict[str, Callable[[Exported, Path], dict[str, Any]]] = {
    "transformers": export_transformers,
    "timm": export_timm,
    "onnx": export_onnx,
    "safetensors": export_safetensors,
    "sentence-transformers": export_sentence_transformers,
}


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how near it is to the checkpoint.

    Attributes:
        format: A name of `FORMATS`.
        source: What was exported.
        difference: Largest absolute difference of features (logits of a classifier) on a fixed input.
        exact: Whether only rounding differs; False where the format cannot hold everything, see `note`.
        how_to_load: Code for it.
        note: What else there is to know.
        details: What the format adds.
        versions: Library versions.
    """

    format: str
    source: str
    difference: float
    exact: bool
    how_to_load: str
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=library_versions)


def export(name: str, output: Path, format_name: str) -> ExportReport:
    """Export a checkpoint; the result is loaded again and compared before it gets its place."""
    if format_name not in FORMATS:
        raise ValueError(
            f"format={format_name!r} is unknown: use one of {', '.join(FORMATS)}.{suggest(format_name, FORMATS)}"
        )
    refuse_filled(output)
    exported = open_checkpoint(name)
    with atomic_write_directory(output) as directory:
        facts = FORMATS[format_name](exported, directory)
        shown = facts.pop("how_to_load").replace("DIRECTORY", output.absolute().name)
        report = ExportReport(
            format_name,
            Path(name).name,
            facts.pop("difference"),
            facts.pop("exact"),
            shown,
            facts.pop("note", ""),
            facts,
        )
        text = json.dumps(asdict(report), indent=2, ensure_ascii=False)
        (directory / REPORT_FILE).write_text(f"{text}\n", encoding="utf-8")
        (directory / "README.md").write_text(_readme(exported, report), encoding="utf-8")
    return report


def _readme(exported: Exported, report: ExportReport) -> str:
    licence = _licence(exported.name)
    config = exported.config
    lines = ["---", f"library_name: {report.format}", *licence, "---", "", f"# {report.source}", ""]
    lines += [
        f"A {config.backbone} {'classifier' if exported.is_classifier else 'backbone'} of "
        f"synco-hub, exported to {report.format}."
        f"{'' if report.details.get('remote_code') else ' It needs no code of that package.'}",
        "",
        "```python",
        report.how_to_load,
        "```",
        "",
        f"Attention heads: {config.num_heads}. Images of {config.image_size} pixels. Largest difference to the "
        f"checkpoint on a fixed input: {report.difference:.1e}. {report.note}".rstrip(),
        "",
        "Licence, training data and measurements are those of the checkpoint it was made from.",
        "",
    ]
    return "\n".join(lines)


def _licence(name: str) -> list[str]:
    """The licence lines of the checkpoint's own card, if it lies on this computer and has any."""
    card = Path(resolve(name)) / "README.md"
    if not card.is_file():
        return []
    data = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    keys = ("license", "license_name", "license_link")
    return [f"{key}: {data[key]}" for key in keys if data.get(key)]
