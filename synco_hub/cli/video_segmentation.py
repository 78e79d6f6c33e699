"""`synco-hub evaluate video-segmentation`: DAVIS 2017 by label propagation."""

from __future__ import annotations

from pathlib import Path

import typer

from synco_hub.output_paths import check_output_folder


def video_segmentation(
    model: str = typer.Option(..., help="Short name, checkpoint directory, Hub id, or timm:<name>."),
    data_dir: Path = typer.Option(..., help="DAVIS: JPEGImages/480p, Annotations/480p, ImageSets/2017."),
    split: str = typer.Option("val", help="List of ImageSets/2017: val or train."),
    output_dir: Path = typer.Option(
        Path("video-segmentation"), help="Gets masks and results; a killed run continues there."
    ),
    stage: int | None = typer.Option(None, help="Stage of a Swin, from 1. Default: the one with 16-pixel patches."),
    short_side: int = typer.Option(480, help="Shorter side of a frame in pixels."),
    num_previous: int = typer.Option(7, help="Frames before the present one that give labels, beside the first."),
    topk: int = typer.Option(5, help="Patches that give labels."),
    radius: int = typer.Option(12, help="Patches around a place from which labels come; 0 for no limit."),
    temperature: float = typer.Option(0.1, help="Of the weights."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
) -> None:
    """J, F and J&F of following the objects of each video's first frame by frozen patch features.

    Writes masks/<video>/*.png with DAVIS's palette and video-segmentation.json, renewed after each video. A video that
    cannot be measured is named at the end, with a non-zero exit code; the others' result is kept, marked partial.

    Example: synco-hub evaluate video-segmentation --model synco-v2-deit-s --data-dir DAVIS --output-dir runs/davis
    """
    check_output_folder(output_dir, "--output-dir")
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.evaluation_inputs import best_device
    from synco_hub.data.davis import load_davis
    from synco_hub.evaluation.dense.label_propagation import PropagationSettings
    from synco_hub.evaluation.dense.video_propagation import VideoSettings
    from synco_hub.evaluation.video_segmentation import RESULT_FILE, evaluate_video_segmentation
    from synco_hub.hub.loading import load_model

    videos = load_davis(data_dir, split)
    network, processor = load_model(model)
    settings = VideoSettings(
        short_side,
        stage,
        PropagationSettings(num_previous, topk, radius, temperature),
        tuple(processor.image_mean),
        tuple(processor.image_std),
        best_device(device),
    )
    result = evaluate_video_segmentation(network, videos, output_dir, settings, model, split)
    print(f"{result.dataset.description}")
    for name, value in result.metrics.items():
        print(f"  {name:<24} {value:8.3f} {'s' if name.endswith('s_per_frame') else '%'}")
    print(f"wrote {output_dir / RESULT_FILE} and {output_dir / 'masks'}")
    if result.skipped_files:
        raise ValueError(
            f"{len(result.skipped_files)} of {len(videos)} videos could not be measured, the result of the others is "
            f"marked partial; first: {result.notes[0]}"
        )
