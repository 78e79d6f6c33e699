"""`synco-hub evaluate discovery`: LOST and TokenCut boxes on PASCAL VOC 2007."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from synco_hub.cli.result_report import print_end
from synco_hub.output_paths import check_output_file, check_output_folder, check_result_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from torch import Tensor

    from synco_hub.data.voc_boxes import BoxedImage


def discovery(
    model: str = typer.Option(..., help="A ViT: short name, checkpoint directory, Hub id, or timm:<name>."),
    data_dir: Path = typer.Option(..., help="VOC2007, or the folder that holds it or VOCdevkit."),
    method: str = typer.Option("lost", help="lost or tokencut."),
    split: str = typer.Option("trainval", help="List of ImageSets/Main."),
    output: Path = typer.Option(Path("discovery.json"), help="Where to write the result."),
    num_images: int | None = typer.Option(None, min=1, help="Only the first images; the result is then partial."),
    max_side: int | None = typer.Option(None, help="Longest side of an image in pixels. Default: its own."),
    save_boxes: Path | None = typer.Option(None, help="Folder to keep boxes in; a killed run continues there."),
    figure: Path | None = typer.Option(None, help="Draw found and annotated boxes to this .png or .pdf."),
    figure_images: int = typer.Option(12, min=1, help="Images of the figure, spread over the split."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
) -> None:
    """CorLoc: the share of images whose one found box lies well (IoU >= 0.5) on any annotated one.

    Example: synco-hub evaluate discovery --model synco-v2-deit-s --method tokencut --data-dir VOCdevkit/VOC2007
    """
    check_result_file(output)
    if save_boxes is not None:
        check_output_folder(save_boxes, "--save-boxes")
    if figure is not None:
        check_output_file(figure, "--figure", (".png", ".pdf"))
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.evaluation_inputs import best_device
    from synco_hub.data.voc_boxes import load_voc_boxes
    from synco_hub.evaluation.discovery import DiscoverySettings, evaluate_discovery
    from synco_hub.hub.loading import load_model
    from synco_hub.visualization import save_figure

    images = load_voc_boxes(data_dir, split)
    network, processor = load_model(model)
    settings = DiscoverySettings(
        method, max_side, tuple(processor.image_mean), tuple(processor.image_std), best_device(device)
    )
    chosen = images[:num_images]
    result, boxes = evaluate_discovery(network, chosen, settings, model, split, save_boxes, len(images))
    result.save(output)
    print(f"{result.protocol.parameters['method']} on {len(chosen)} images of {result.dataset.name} ({split})")
    print(f"  CorLoc {result.metrics['corloc']:6.2f} %")
    print_end(result, output)
    if figure is not None:
        title = f"{result.protocol.parameters['method']}, {model}"
        print(f"wrote {save_figure(_boxes_figure(chosen, boxes, figure_images, title), figure)}")


def _boxes_figure(images: Sequence[BoxedImage], boxes: Tensor, count: int, title: str) -> Figure:
    """Images at even distances over the split."""
    from synco_hub.data import decode_rgb
    from synco_hub.visualization.box_figure import BoxedPicture, box_figure

    count = min(count, len(images))
    places = [number * len(images) // count for number in range(count)]
    pictures = [
        BoxedPicture(decode_rgb(images[place].file), boxes[place], images[place].boxes, images[place].name)
        for place in places
    ]
    return box_figure(pictures, title=title)
