"""`synco-hub evaluate ood`: does a classifier know what it does not know (Table 13, ImageNet-O)?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from synco_hub.cli.result_report import print_end
from synco_hub.output_paths import check_output_folder, check_result_file

if TYPE_CHECKING:
    from synco_hub.data import EvaluationDataset, ImageDataset
    from synco_hub.evaluation.out_of_distribution import DetectionSets


def out_of_distribution(
    model: str = typer.Option(..., help="Output folder of linear-probe or fine-tune, or a classifier on the Hub."),
    data_dir: Path | None = typer.Option(
        None, help="ImageNet-O: folder that holds imagenet-o/ and ImageNet's validation images (imagenet/val/)."
    ),
    in_dataset: str | None = typer.Option(None, help="Instead: known images (their test split), as --dataset takes."),
    out_dataset: str | None = typer.Option(None, help="Unknown images: any folder of images, or a data set's test."),
    bank_dataset: str | None = typer.Option(
        None, help="For the neighbour score: known training images; with --in-dataset its training split."
    ),
    neighbour: int = typer.Option(50, help="Which nearest neighbour counts; Sun et al. take 50 to 1000."),
    output: Path = typer.Option(
        Path("ood.json"), help="Where to write; what the model gives for the images is kept beside it."
    ),
    batch_size: int = typer.Option(128, help="Images per forward."),
    num_workers: int = typer.Option(0, help="Processes that decode images."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
    split_seed: int = typer.Option(0, help="Seed of the 80/20 split of a folder without test images."),
    max_bad_fraction: float = typer.Option(0.01, help="Share of images that may be unreadable."),
) -> None:
    """FPR95, AUROC, AUPR of maximum softmax, energy and nearest-neighbour scores, in both conventions (paper 8.2).

    Started again after an interruption it goes on where it was; images that have changed since are measured anew.

    Example: synco-hub evaluate ood --model runs/probe --in-dataset fractals --out-dataset ./photographs
    """
    outputs = output.with_name(f"{output.stem}.outputs")
    check_result_file(output)
    check_output_folder(outputs, "--output")
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.evaluation_inputs import best_device
    from synco_hub.evaluation.out_of_distribution import evaluate_out_of_distribution
    from synco_hub.features import ExtractionSettings
    from synco_hub.hub.classifier import load_classifier

    if (in_dataset is None) != (out_dataset is None) or (in_dataset is None) == (data_dir is None):
        raise ValueError("give --data-dir for ImageNet-O, or --in-dataset together with --out-dataset.")
    classifier, processor, names = load_classifier(model)
    if data_dir is not None:
        sets = _imagenet_o(data_dir, processor, names, bank_dataset, neighbour)
    else:
        sets = _pair(str(in_dataset), str(out_dataset), processor, names, (bank_dataset, neighbour, split_seed))
    settings = ExtractionSettings(batch_size, num_workers, best_device(device), max_bad_fraction=max_bad_fraction)
    result = evaluate_out_of_distribution(classifier, sets, model, settings, outputs)
    result.save(output)
    print(f"{result.dataset.count} unknown images, {sets.known.images.description.num_images} known ones")
    for name, value in result.metrics.items():
        print(f"  {name:<38} {value:7.2f} %")
    print_end(result, output)


def _imagenet_o(
    data_dir: Path, processor: Any, names: tuple[str, ...], bank_dataset: str | None, neighbour: int
) -> DetectionSets:
    from synco_hub.data import EvaluationDataset, EvaluationTransform
    from synco_hub.data.class_folders import read_class_folders
    from synco_hub.evaluation.out_of_distribution import DetectionSets
    from synco_hub.evaluation.shifts.class_columns import class_columns
    from synco_hub.evaluation.shifts.robustness_sets import found_folder

    transform = EvaluationTransform.from_image_processor(processor)
    folder = data_dir / "imagenet-o"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; unpack imagenet-o.tar in {data_dir}")
    unknown = read_class_folders(folder, "imagenet_o")
    known = read_class_folders(found_folder("imagenet", data_dir), "imagenet_o", whole=True, others=True)
    return DetectionSets(
        EvaluationDataset(known, transform),
        EvaluationDataset(unknown, transform),
        None if bank_dataset is None else _bank(bank_dataset, transform, 0),
        neighbour,
        class_columns(names, "imagenet_o"),
        "ood",
    )


def _pair(
    in_dataset: str, out_dataset: str, processor: Any, names: tuple[str, ...], choice: tuple[str | None, int, int]
) -> DetectionSets:
    from synco_hub.cli.evaluation_inputs import DataChoice, evaluation_split
    from synco_hub.data import EvaluationDataset
    from synco_hub.evaluation.classification_targets import check_same_classes
    from synco_hub.evaluation.out_of_distribution import DetectionSets

    bank_dataset, neighbour, split_seed = choice
    known = evaluation_split(DataChoice(in_dataset, split_seed=split_seed), "test", processor)
    check_same_classes(names, tuple(known.images.class_names))
    unknown = EvaluationDataset(unknown_images(out_dataset, split_seed, processor), known.transform)
    bank = _bank(bank_dataset or in_dataset, known.transform, split_seed)
    return DetectionSets(known, unknown, bank, min(neighbour, len(bank)))


def _bank(name: str, transform: Any, split_seed: int) -> EvaluationDataset:
    from synco_hub.data import EvaluationDataset, load_dataset

    images = load_dataset(name, "train", seed=split_seed, image_size=transform.image_size)
    return EvaluationDataset(images, transform)


def unknown_images(name: str, split_seed: int, processor: Any) -> ImageDataset:
    """All images of a folder at any depth, or the test split of a data set; labels are not used.

    Raises:
        ValueError: If there is no image.
    """
    from synco_hub.data import UNLABELED, EvaluationTransform, ImageFolderDataset, load_dataset
    from synco_hub.data.file_listing import image_files

    folder = Path(name).expanduser()
    if not folder.is_dir():
        size = EvaluationTransform.from_image_processor(processor).image_size
        return load_dataset(name, "test", seed=split_seed, image_size=size)
    files = image_files(folder)
    if not files:
        raise ValueError(f"{folder}: no image was found; give a folder with image files")
    return ImageFolderDataset(folder, files, [UNLABELED] * len(files), [], "test", "all images at any depth")
