"""What every protocol measures: a model by name on the splits of a data set, prepared as the model wants them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation.classification import evaluate_classification
from synco_hub.evaluation.low_shot import drawn_subset, listed_subset
from synco_hub.features import ExtractionSettings
from synco_hub.hub.classifier import load_classifier
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


def evaluation_split(choice: DataChoice, split: str, processor: Any) -> EvaluationDataset:
    """One split of the chosen data set, each image resized and centre-cropped by the model's own numbers.

    Args:
        choice: Which images.
        split: `train` or `test`.
        processor: The image processor of the model.
    """
    transform = EvaluationTransform.from_image_processor(processor)
    images = load_dataset(
        choice.dataset,
        split,
        seed=choice.split_seed,
        image_size=processor.crop_size["height"] if getattr(processor, "crop_size", None) else None,
        data_dir=choice.data_dir,
        image_column=choice.image_column,
        label_column=choice.label_column,
    )
    if split == "train" and choice.train_fraction is not None and choice.train_list is not None:
        raise ValueError("--train-fraction and --train-list both choose the low-shot images: give one of them.")
    if split == "train" and choice.train_fraction is not None:
        images = drawn_subset(images, choice.train_fraction, choice.split_seed)
    if split == "train" and choice.train_list is not None:
        images = listed_subset(images, choice.train_list)
    return EvaluationDataset(images, transform)


def classification_of_model(model: str, choice: DataChoice, settings: ExtractionSettings) -> EvaluationResult:
    """Load a classifier and measure it on the test split.

    Args:
        model: What linear probing or fine-tuning wrote, or a classifier on the Hub.
        choice: Which images.
        settings: How they go through the network.
    """
    classifier, processor, names = load_classifier(model)
    return evaluate_classification(classifier, names, evaluation_split(choice, "test", processor), model, settings)


def best_device(device: str | None) -> str:
    """The device that was asked for, else an accelerator if there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")
