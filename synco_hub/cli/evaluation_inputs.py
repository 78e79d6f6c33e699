"""What every protocol measures: a model by name on the splits of a data set, prepared as the model wants them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synco_hub.data import EvaluationDataset, EvaluationTransform, ImageDataset, load_dataset
from synco_hub.data.catalog.rows import CATALOG, row_meant
from synco_hub.data.class_lists import class_list
from synco_hub.data.image_subset import subset_of_classes
from synco_hub.evaluation.classification import evaluate_classification
from synco_hub.evaluation.efficiency import PRECISIONS
from synco_hub.evaluation.neighbours.low_shot import low_shot_subset
from synco_hub.features import ExtractionSettings
from synco_hub.hub.loading import load_classifier
from synco_hub.results import EvaluationResult


@dataclass(frozen=True)
class DataChoice:
    """Which images; the fields are the flags of `synco-hub evaluate`."""

    dataset: str = "fractals"
    data_dir: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    split_seed: int = 0
    train_fraction: float | None = None
    train_list: Path | None = None
    dataset_id: str | None = None
    config: str | None = None
    revision: str | None = None
    train_dataset: str | None = None
    train_data_dir: str | None = None


def evaluation_split(choice: DataChoice, split: str, processor: Any) -> EvaluationDataset:
    """One split of the chosen data set, each image resized and centre-cropped by the model's own numbers.

    Args:
        choice: Which images.
        split: `train` or `test`.
        processor: The image processor of the model.

    Raises:
        ValueError: If the data set has no such split, or the low-shot choice does not fit.
    """
    transform = EvaluationTransform.from_image_processor(processor)
    if split == "train" and choice.train_dataset is not None:
        images = _other_training_images(choice)
    else:
        _require_split(choice, split)
        images = load_dataset(
            choice.dataset,
            split,
            seed=choice.split_seed,
            image_size=processor.crop_size["height"] if getattr(processor, "crop_size", None) else None,
            data_dir=choice.data_dir,
            image_column=choice.image_column,
            label_column=choice.label_column,
            config=choice.config,
            revision=choice.revision,
            dataset_id=choice.dataset_id,
        )
    if split == "train":
        images = low_shot_subset(images, choice.train_fraction, choice.train_list, choice.split_seed)
    return EvaluationDataset(images, transform)


def _require_split(choice: DataChoice, split: str) -> None:
    row = row_meant(choice.dataset, choice.data_dir, choice.dataset_id)
    if row is not None and split == "train" and split not in row.splits:
        raise ValueError(
            f"{choice.dataset} has test images only: name the training images with --train-dataset, such as "
            "imagenet-1k, and their folder with --train-data-dir."
        )


def _other_training_images(choice: DataChoice) -> ImageDataset:
    """Training images of another set; of their classes those that the measured set has."""
    images = load_dataset(str(choice.train_dataset), "train", seed=choice.split_seed, data_dir=choice.train_data_dir)
    row = CATALOG.get(choice.dataset)
    if row is None or row.class_list is None or images.class_names == list(class_list(row.class_list)):
        return images
    return subset_of_classes(images, class_list(row.class_list))


def classification_of_model(model: str, choice: DataChoice, settings: ExtractionSettings) -> EvaluationResult:
    """Load a classifier and measure it on the test split.

    Args:
        model: What linear probing or fine-tuning wrote, or a classifier on the Hub.
        choice: Which images.
        settings: How they go through the network.
    """
    classifier, processor, names = load_classifier(model)
    return evaluate_classification(classifier, names, evaluation_split(choice, "test", processor), model, settings)


def autocast_dtype(precision: str) -> torch.dtype | None:
    """The type of the arithmetic under autocast, None for `fp32`."""
    return PRECISIONS[precision]


def best_device(device: str | None) -> str:
    """The device that was asked for, else an accelerator if there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")
