"""`synco-hub evaluate <protocol>`: one command for each protocol of the paper."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

from synco_hub.cli.adversarial import adversarial
from synco_hub.cli.dataset_flags import Config, DataDir, Dataset, DatasetId, ImageColumn, LabelColumn, Revision
from synco_hub.cli.discovery import discovery
from synco_hub.cli.efficiency import efficiency
from synco_hub.cli.out_of_distribution import out_of_distribution
from synco_hub.cli.retrieval import retrieval
from synco_hub.cli.robustness import robustness
from synco_hub.cli.video_segmentation import video_segmentation
from synco_hub.output_paths import check_result_file

DEFAULT_BATCH_SIZE = 128

evaluate = typer.Typer(no_args_is_help=True, help="Measure a frozen model by one of the paper's protocols.")
evaluate.command("adversarial")(adversarial)
evaluate.command("discovery")(discovery)
evaluate.command("efficiency")(efficiency)
evaluate.command("ood")(out_of_distribution)
evaluate.command("retrieval")(retrieval)
evaluate.command("robustness")(robustness)
evaluate.command("video-segmentation")(video_segmentation)


class Precision(StrEnum):
    """Arithmetic of many products."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


@evaluate.command("knn")
def knn(
    model: str | None = typer.Option(None, help="Short name, checkpoint directory, Hub id, or timm:<name>."),
    dataset: Dataset = "fractals",
    output: Path = typer.Option(Path("results.json"), help="Where to write the result."),
    k: list[int] = typer.Option(None, help="Neighbours; repeat for several. Default: 10, 20, 100, 200."),
    data_dir: DataDir = None,
    dataset_id: DatasetId = None,
    config: Config = None,
    revision: Revision = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    batch_size: str = typer.Option(str(DEFAULT_BATCH_SIZE), help="Images per forward, or auto: the fastest."),
    num_workers: int = typer.Option(2, help="Processes that decode images."),
    num_processes: int = typer.Option(1, help="Processes that share images and queries; a GPU each on cuda."),
    precision: Precision = typer.Option(Precision.fp32, help="Arithmetic of the network; the vote is in fp32."),
    search_precision: Precision = typer.Option(
        Precision.fp32, help="Arithmetic that candidates are found in; the neighbours are exact in every one."
    ),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
    split_seed: int = typer.Option(0, help="Seed of the 80/20 split of a folder without test images."),
    max_bad_fraction: float = typer.Option(0.01, help="Share of images that may be unreadable."),
    train_fraction: float | None = typer.Option(None, help="Low-shot: share of each class in the bank, 0.01 or 0.1."),
    train_list: Path | None = typer.Option(None, help="Low-shot: file with the names of the bank's images."),
    train_dataset: str | None = typer.Option(None, help="Bank for a set of test images only, such as imagenet-1k."),
    train_data_dir: str | None = typer.Option(None, help="Folder of the original files of --train-dataset."),
    save_features: Path | None = typer.Option(None, help="Folder to keep the features of both splits in."),
    features: Path | None = typer.Option(None, help="Folder of --save-features: vote again without the model."),
) -> None:
    """Weighted k-nearest-neighbour accuracy of frozen features (paper 8.1; the protocol of DINO).

    Example: synco-hub evaluate knn --model synco-v2-vit-nano --dataset fractals --output results.json
    """
    check_result_file(output)
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.evaluation_inputs import DataChoice, autocast_dtype, best_device, fixed_batch_size
    from synco_hub.cli.knn_evaluation import knn_of_features, knn_of_model
    from synco_hub.features import ExtractionSettings

    if features is not None:
        result = knn_of_features(features, k or None, best_device(device), num_processes, search_precision.value)
    else:
        if model is None:
            raise ValueError("--model is missing: give the model to measure, or --features of an earlier measurement.")
        choice = DataChoice(
            *(dataset, data_dir, image_column, label_column, split_seed, train_fraction, train_list),
            *(dataset_id, config, revision, train_dataset, train_data_dir),
        )
        size = fixed_batch_size(batch_size)
        settings = ExtractionSettings(
            *(size or DEFAULT_BATCH_SIZE, num_workers, best_device(device)),
            *(autocast_dtype(precision.value), max_bad_fraction),
            num_processes=num_processes,
            autotune_batch=size is None,
        )
        result = knn_of_model(model, choice, k or None, settings, save_features, search_precision.value)
    result.save(output)
    print(f"{result.dataset.count} test images of {result.dataset.name}: {result.dataset.description}")
    for name, value in result.metrics.items():
        print(f"  {name:<12} {value:6.2f} %")
    for note in result.notes:
        print(f"  {note}")
    if result.skipped_files:
        print(f"  skipped {len(result.skipped_files)} unreadable files: {', '.join(result.skipped_files[:10])}")
    print(f"wrote {output}")


@evaluate.command("classification")
def classification(
    model: str = typer.Option(..., help="Output folder of linear-probe or fine-tune, or a classifier on the Hub."),
    dataset: Dataset = "fractals",
    output: Path = typer.Option(Path("classification.json"), help="Where to write the result."),
    data_dir: DataDir = None,
    dataset_id: DatasetId = None,
    config: Config = None,
    revision: Revision = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    batch_size: int = typer.Option(128, help="Images per forward."),
    num_workers: int = typer.Option(2, help="Processes that decode images."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
    split_seed: int = typer.Option(0, help="Seed of the 80/20 split of a folder without test images."),
    max_bad_fraction: float = typer.Option(0.01, help="Share of images that may be unreadable."),
) -> None:
    """Top-1, top-5 and mean per-class accuracy (or mAP) of a trained classifier on centre crops.

    Example: synco-hub evaluate classification --model runs/probe --dataset fractals --output classification.json
    """
    check_result_file(output)
    from synco_hub.cli.evaluation_inputs import DataChoice, best_device, classification_of_model
    from synco_hub.features import ExtractionSettings

    settings = ExtractionSettings(batch_size, num_workers, best_device(device), max_bad_fraction=max_bad_fraction)
    choice = DataChoice(
        *(dataset, data_dir, image_column, label_column, split_seed),
        dataset_id=dataset_id,
        config=config,
        revision=revision,
    )
    result = classification_of_model(model, choice, settings)
    result.save(output)
    for name, value in result.metrics.items():
        print(f"  {name:<14} {value:6.2f} %")
    print(f"wrote {output}")


@evaluate.command("all")
def evaluate_all(
    model: str = typer.Option(..., help="Short name, checkpoint directory, Hub id, or timm:<name>."),
    dataset: list[str] = typer.Option(["fractals"], help="Data sets; repeat the flag for several."),
    output_dir: Path = typer.Option(Path("results"), help="One folder a data set, one file a protocol."),
    data_dir: Path | None = typer.Option(
        None,
        help="Folder of published archives: robustness, ood, retrieval, video and discovery run on what it holds.",
    ),
    batch_size: int = typer.Option(128, help="Images per forward."),
    num_workers: int = typer.Option(2, help="Processes that decode images."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
    split_seed: int = typer.Option(0, help="Seed of the 80/20 split of a folder without test images."),
) -> None:
    """Every protocol that needs no training and that model and data allow, on every data set given.

    Example: synco-hub evaluate all --model runs/probe --dataset fractals --dataset ./photographs --output-dir results
    """
    from synco_hub.cli.evaluate_all import run_all
    from synco_hub.cli.evaluation_inputs import best_device
    from synco_hub.features import ExtractionSettings

    settings = ExtractionSettings(batch_size, num_workers, best_device(device))
    print(run_all(model, dataset, output_dir, settings, split_seed, data_dir), end="")
