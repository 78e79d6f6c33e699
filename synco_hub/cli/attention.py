"""`synco-hub attention`: what checkpoints attend to in images, as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_SIDE = 224


def attention(
    model: list[str] = typer.Option(
        ..., help="Zoo or installed short name, checkpoint directory, or Hub id; repeat to compare models."
    ),
    image: list[Path] = typer.Option(..., help="JPEG, PNG, WebP, … of any mode and size; repeat for more rows."),
    output: Path = typer.Option(Path("attention.png"), help="The figure to write: .png or .pdf."),
    kind: list[str] = typer.Option(
        [],
        help="cls, patch, rollout, cam, saliency, windows, tokens or foreground; repeat for more columns. Without it: "
        "what the paper shows, cls and patch of a ViT, cam and saliency of a Swin.",
    ),
    mass: float | None = typer.Option(
        None, help="Show only the places that hold this share of a map, for example 0.6."
    ),
    detail: int = typer.Option(1, min=1, max=4, help="Times the model's own input size, positions interpolated."),
    strength: float = typer.Option(1.0, min=0, max=1, help="Share of the map over the image; 1 is the map alone."),
) -> None:
    """Draw what one or several checkpoints attend to in one or several images (paper section 12).

    One ViT and one image give the input, both attention maps and every head. Anything else gives a grid as in Figures
    6 to 15: a row for each image, columns for each model.

    Example: synco-hub attention --model synco-v2-vit-nano --model moby-vit-nano --image dog.jpg --image cat.jpg
    """
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.data import decode_rgb
    from synco_hub.hub.loading import load_with_head
    from synco_hub.visualization import attends_in_windows, save_figure

    pictures = [decode_rgb(path) for path in image]
    models = {title: load_with_head(name) for title, name in _titles(model).items()}
    first, processor = next(iter(models.values()))
    if len(models) == len(pictures) == 1 and not kind and not attends_in_windows(first):
        figure = _heads_figure(first, processor, pictures[0], (next(iter(models)), mass, detail, strength))
    else:
        figure = _grid(models, pictures, kind, (mass, detail, strength))
    print(f"wrote {save_figure(figure, output)}")


def _titles(names: list[str]) -> dict[str, str]:
    """What each model is called in the figure: a checkpoint directory by its last part, if that names one alone."""
    short = [Path(name).resolve().name if Path(name).is_dir() else name for name in names]
    return {title if short.count(title) == 1 else name: name for title, name in zip(short, names, strict=True)}


def _heads_figure(
    network: Any, processor: Any, picture: Any, settings: tuple[str, float | None, int, float]
) -> Figure:
    from synco_hub.visualization import FigureStyle, attention_figure, attention_maps, prepared_image

    title, mass, detail, strength = settings
    prepared = prepared_image(picture, processor, detail, _SHOWN_SIDE)
    maps = attention_maps(network, prepared.pixel_values)
    return attention_figure(prepared.shown, maps, FigureStyle(mass=mass, title=title, strength=strength))


def _grid(
    models: dict[str, tuple[Any, Any]],
    pictures: list[Any],
    kinds: list[str],
    settings: tuple[float | None, int, float],
) -> Figure:
    from synco_hub.visualization import MAP_KINDS, GridColumn, drawn_map, grid_figure, paper_kinds, prepared_image

    mass, detail, strength = settings
    columns: list[GridColumn] = []
    notes: list[str] = []
    inputs: list[Any] = []
    for name, (network, processor) in models.items():
        prepared = [prepared_image(picture, processor, detail, _SHOWN_SIDE) for picture in pictures]
        if not _same_pictures(inputs, [each.shown for each in prepared]):
            # Maps lie over what their own model saw: another size or crop is shown before them.
            inputs = [each.shown for each in prepared]
            columns.append(GridColumn("", "Input", inputs))
        for kind in kinds or paper_kinds(network):
            drawn = [drawn_map(kind, network, each, mass, strength) for each in prepared]
            columns.append(GridColumn(name, MAP_KINDS[kind].title, drawn))
        if {"cam", "saliency"} & set(kinds or paper_kinds(network)):
            notes.append(_note(name, network, prepared))
    return grid_figure(columns, note="\n".join(notes) or None)


def _same_pictures(ours: list[Any], theirs: list[Any]) -> bool:
    """Whether both show the same part of the images; sizes and last bits may differ."""
    from synco_hub.visualization.overlay import same_part

    return len(ours) == len(theirs) and all(same_part(a, b) for a, b in zip(ours, theirs, strict=True))


def _note(name: str, network: Any, prepared: list[Any]) -> str:
    """What the gradients are of: it cannot be seen in the maps."""
    import torch

    from synco_hub.visualization import class_score

    with torch.no_grad():
        of = [class_score(network, each.pixel_values).descriptions[0] for each in prepared]
    words = (
        of[0]
        if len(set(of)) == 1
        else ", ".join(f"{description} (row {row})" for row, description in enumerate(of, 1))
    )
    print(f"{name}: Grad-CAM and saliency of the {words}")
    return f"{name}: gradients of the {words}"
