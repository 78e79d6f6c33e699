"""`synco-hub attention`: what a checkpoint attends to in an image."""

from __future__ import annotations

from pathlib import Path

import typer


def attention(
    model: str = typer.Option(..., help="Zoo or installed short name, checkpoint directory, or Hub id."),
    image: Path = typer.Option(..., help="The image: JPEG, PNG, WebP, … of any mode and size."),
    output: Path = typer.Option(Path("attention.png"), help="The figure to write: .png or .pdf."),
    mass: float | None = typer.Option(None, help="Show only the patches that hold this share of attention; 0.6."),
) -> None:
    """Draw the input, its [CLS] attention, patch self-attention and every head of the last block (paper 12.1).

    Example: synco-hub attention --model synco-v2-vit-nano --image dog.jpg --output dog_attention.png
    """
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.data import decode_rgb
    from synco_hub.hub.loading import load_model
    from synco_hub.visualization import FigureStyle, attention_figure, attention_maps, denormalised, save_figure

    picture = decode_rgb(image)
    network, processor = load_model(model)
    pixels = processor(picture, return_tensors="pt").pixel_values
    shown = denormalised(pixels[0], processor.image_mean, processor.image_std)
    figure = attention_figure(shown, attention_maps(network, pixels), FigureStyle(mass=mass, title=model))
    print(f"wrote {save_figure(figure, output)}")
