"""`synco-hub export`: a checkpoint for people without this package."""

from __future__ import annotations

from pathlib import Path

import typer


def export(
    model: str = typer.Argument(..., help="Zoo or installed short name, checkpoint directory, or Hub id."),
    output: Path = typer.Option(..., help="Directory to write; it must not exist, or be empty."),
    format: str = typer.Option(
        "transformers",
        help="transformers (stock ViT or Swin), timm, onnx (free batch size), or safetensors (timm's names).",
    ),
) -> None:
    """Export a backbone or classifier so that it loads without this package or remote code.

    What was written is loaded again and its features are compared with the checkpoint's before it gets its place.

    Example: synco-hub export synco-v2-vit-nano --format onnx --output vit-nano-onnx
    """
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.hub.export.export import export as export_checkpoint

    print(f"exporting {model} to {format}")
    report = export_checkpoint(model, output, format)
    print(f"largest difference of the outputs on a fixed input: {report.difference:.1e}")
    if report.note:
        print(f"note: {report.note}")
    print(f"wrote {output}; load it by:\n{report.how_to_load}")
