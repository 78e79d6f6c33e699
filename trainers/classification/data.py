"""The images of probing and fine-tuning: augmented per (seed, epoch, index), centre crops, or cached features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from synco_hub.data import (
    EvaluationDataset,
    EvaluationTransform,
    ImageDataset,
    TwoViewParameters,
    UnreadableImageError,
)
from synco_hub.data.class_labels import number_alike, take_recorded_numbers, warn_of_untrained_classes
from synco_hub.data.loading import load_recorded_images
from synco_hub.data.samplers import derive_random_key
from synco_hub.data.subsets import take_low_shot_subset
from synco_hub.data.views.draws import draw_view
from synco_hub.data.views.worker_views import crop_resized, distort
from synco_hub.evaluation.classification import ClassificationTargets, check_same_classes, classification_targets
from synco_hub.results import DataSource
from trainers.classification.settings import LabelledDataArguments


class TrainingItem(TypedDict):
    """One augmented image.

    Keys: pixel_values (channels, height, width), zero for an unreadable image; target, a class index or a multi-hot
    row; bad_index, -1 or the position of the image if it cannot be read and must not count.
    """

    pixel_values: Tensor
    target: Tensor
    bad_index: int


class CropAndFlip:
    """Random resized crop with scale (0.08, 1) and horizontal flip, resized and normalised as the model wants it."""

    def __init__(self, evaluation: EvaluationTransform) -> None:
        _, height, width = evaluation.shape
        if height != width:
            raise ValueError(
                f"{evaluation!r}: training views are square crops, and this model's are {height} x {width}: use a "
                "model of square images"
            )
        self.image_size = height
        self.channels = len(evaluation.mean)
        self.parameters = TwoViewParameters(
            color_jitter_probability=0.0,
            color_dropping_probability=0.0,
            gaussian_blur_probability=(0.0, 0.0),
            solarization_probability=(0.0, 0.0),
            mean=_triple(evaluation.mean),
            std=_triple(evaluation.std),
        )

    def __call__(self, pixels: npt.NDArray[np.uint8], seed_key: int) -> Tensor:
        """Make the view that belongs to a key."""
        if self.channels == 1:  # of a grey image, as in evaluation
            pixels = np.array(Image.fromarray(pixels).convert("L").convert("RGB"))
        height, width = pixels.shape[:2]
        draw = draw_view(self.parameters, 0, width, height, seed_key)
        return distort(crop_resized(pixels, draw, self.image_size), draw, self.parameters)[: self.channels]

    def __repr__(self) -> str:
        scale = self.parameters.crop_scale
        return f"random resized crop {self.image_size} scale {scale} bicubic, horizontal flip 0.5"


class AugmentedDataset(Dataset[TrainingItem]):
    """Map-style data set indexed by (epoch, index).

    An unreadable image gets no stand-in, whose label would be another one: it is marked, and does not count.

    Args:
        images: The images.
        targets: Class indices (num_images,) or multi-hot rows (num_images, num_classes).
        transform: Makes the view.
        seed: Another seed draws other views.
    """

    def __init__(self, images: ImageDataset, targets: Tensor, transform: CropAndFlip, seed: int = 0) -> None:
        self.images = images
        self.targets = targets
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> TrainingItem:
        epoch, index = key
        try:
            pixels = self.images.load_pixels(index)
        except UnreadableImageError:
            size = self.transform.image_size
            nothing = torch.zeros(self.transform.channels, size, size)
            return TrainingItem(pixel_values=nothing, target=self.targets[index], bad_index=index)
        view = self.transform(pixels, derive_random_key(self.seed, epoch, index))
        return TrainingItem(pixel_values=view, target=self.targets[index], bad_index=-1)

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.images.name(index)


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    first, second, third = values * 3 if len(values) == 1 else values
    return first, second, third


class FeatureItem(TypedDict):
    """One image's frozen feature (dim,), its target and position; `bad_index` is always -1."""

    features: Tensor
    target: Tensor
    index: int
    bad_index: int


class FeatureDataset(Dataset[FeatureItem]):
    """Rows of a feature table, indexed by position or, as the epoch sampler does, by (epoch, position).

    Args:
        values: Shape: (num_images, dim).
        targets: Class indices (num_images,) or multi-hot (num_images, num_classes), row by row.
    """

    def __init__(self, values: Tensor, targets: Tensor) -> None:
        if len(values) != len(targets):
            raise ValueError(f"{len(values)} features and {len(targets)} targets do not fit: give one target a row")
        self.values = values
        self.targets = targets

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: int | tuple[int, int]) -> FeatureItem:
        index = key[1] if isinstance(key, tuple) else key
        return FeatureItem(features=self.values[index], target=self.targets[index], index=index, bad_index=-1)

    def name(self, index: int) -> str:
        """How reports name one image."""
        return f"row {index}"


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


def load_labelled_data(
    arguments: LabelledDataArguments,
    processor: Any,
    seed: int,
    purpose: str,
    recorded: Mapping[str, Any] | None = None,
) -> LabelledData:
    """Open both splits; `recorded` are the settings of a run that goes on, which say what they were."""
    transform = EvaluationTransform.from_image_processor(processor)
    begun = {split: (recorded or {}).get(split) for split in ("train", "test")}

    def draw(images: ImageDataset) -> ImageDataset:
        return take_low_shot_subset(images, arguments.train_fraction, arguments.train_list, arguments.split_seed)

    train = load_recorded_images(arguments, "train", begun["train"], draw, image_size=transform.image_size)
    test = load_recorded_images(
        arguments, "test", begun["test"], lambda images: images, image_size=transform.image_size
    )
    number_alike(train, test)
    for images, split in ((train, "train"), (test, "test")):
        take_recorded_numbers(images, begun[split])
    warn_of_untrained_classes(train, test)
    train_targets, test_targets = (classification_targets(images, purpose) for images in (train, test))
    check_same_classes(train_targets.class_names, test_targets.class_names, "training split")
    augmented = AugmentedDataset(train, train_targets.values, CropAndFlip(transform), seed)
    return LabelledData(augmented, train_targets, EvaluationDataset(test, transform), test_targets)


def data_source(images: ImageDataset, skipped: int = 0) -> DataSource:
    """What a result says about a split."""
    about = images.description
    return DataSource(
        name=about.name,
        split=about.split,
        count=len(images) - skipped,
        fingerprint=about.fingerprint,
        description=f"{about.source}; {about.split_rule}",
        num_classes=about.num_classes,
    )
