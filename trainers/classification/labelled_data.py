"""The two splits of a labelled data set as probing and fine-tuning read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from synco_hub.data import EvaluationDataset, EvaluationTransform, ImageDataset, load_dataset
from synco_hub.data.subsets import low_shot_subset
from synco_hub.evaluation.classification import (
    ClassificationTargets,
    check_same_classes,
    classification_targets,
)
from synco_hub.results import DataSource
from trainers.classification.augmented_dataset import AugmentedDataset, CropAndFlip
from trainers.classification.classification_arguments import LabelledDataArguments


@dataclass(frozen=True)
class LabelledData:
    """Training images with targets, and the test split beside them.

    Attributes:
        train: Training images, augmented, indexed by (epoch, index).
        train_targets: Targets of all training images.
        test: Centre crops.
        test_targets: Targets of all test images.
    """

    train: AugmentedDataset
    train_targets: ClassificationTargets
    test: EvaluationDataset
    test_targets: ClassificationTargets


def labelled_data(arguments: LabelledDataArguments, processor: Any, seed: int, purpose: str) -> LabelledData:
    """Open both splits.

    Args:
        arguments: Which images.
        processor: The model's image processor.
        seed: Seed of the augmentation.
        purpose: What needs the labels, for error messages.

    Raises:
        ValueError: If a split is empty or unlabelled, the splits have other classes, or the low-shot choice does not
            fit.
    """
    transform = EvaluationTransform.from_image_processor(processor)
    train, test = (load_dataset(arguments, split, image_size=transform.image_size) for split in ("train", "test"))
    train = low_shot_subset(train, arguments.train_fraction, arguments.train_list, arguments.split_seed)
    train_targets, test_targets = (classification_targets(images, purpose) for images in (train, test))
    check_same_classes(train_targets.class_names, test_targets.class_names, "training split")
    augmented = AugmentedDataset(train, train_targets.values, CropAndFlip(transform), seed)
    return LabelledData(augmented, train_targets, EvaluationDataset(test, transform), test_targets)


def data_source(images: ImageDataset, skipped: int = 0) -> DataSource:
    """What a result says about a split.

    Args:
        images: The split.
        skipped: Images that could not be read.
    """
    about = images.description
    return DataSource(
        name=about.name,
        split=about.split,
        count=len(images) - skipped,
        fingerprint=about.fingerprint,
        description=f"{about.source}; {about.split_rule}",
        num_classes=about.num_classes,
    )
