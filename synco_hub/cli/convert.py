"""`synco-hub convert`: somebody's checkpoint becomes one that `AutoModel` loads."""

from __future__ import annotations

from pathlib import Path

import typer


def convert(
    source: str = typer.Argument(
        ...,
        help="The downloaded .pth, .pt, .tar or .safetensors, a directory of a stock ViT or Swin, or timm:<name>.",
    ),
    output: Path = typer.Option(..., help="Directory to write; it must not exist, or be empty."),
    layout: str = typer.Option("auto", help="auto, synco-v2, moby, moco-v3, dino or timm; auto tells it by the keys."),
    backbone: str | None = typer.Option(None, help="Short name or timm name of the network; default: by the shapes."),
    num_heads: int | None = typer.Option(
        None,
        min=1,
        help="Attention heads of a ViT, which no shape tells; default: as the layout's own code builds it.",
    ),
    image_size: int | None = typer.Option(None, min=1, help="Side of the input in pixels; default: by the shapes."),
    branch: str | None = typer.Option(
        None, help="online or target; default: the one that the project itself evaluates (DINO: target)."
    ),
    whole_pretraining_state: bool = typer.Option(
        False, "--whole-pretraining-state", help="Keep both networks, heads and queues, to pretrain further."
    ),
    head: str | None = typer.Option(None, help="File with a linear classifier for the backbone: gives a classifier."),
) -> None:
    """Convert a checkpoint of the synco-v2 authors, MoBY, MoCo-v3, DINO, timm, or a stock ViT or Swin.

    No code in the file is run: pickles are read as plain data. Every tensor is carried over, or dropped for a reason
    that conversion_report.json lists; anything else is an error and nothing is written.

    Example: synco-hub convert synco_v2_vit_small.pth --output synco-v2-deit-s
    """
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.hub.conversion.configuration import Choices
    from synco_hub.hub.conversion.convert import ConversionSettings
    from synco_hub.hub.conversion.convert import convert as convert_checkpoint

    print(f"reading {source}")
    settings = ConversionSettings(
        layout, branch, whole_pretraining_state, head, Choices(backbone, num_heads, image_size)
    )
    report = convert_checkpoint(source, output, settings)
    for line in report.lines():
        print(line)
    print(f"wrote {output} (load it by AutoModel.from_pretrained({str(output)!r}); report: conversion_report.json)")
