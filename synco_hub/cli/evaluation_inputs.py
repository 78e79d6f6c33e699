"""What every protocol measures: a model by name on the splits of a data set, prepared as the model wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset


@dataclass(frozen=True)
class DataChoice:
    """Which images; the fields are the flags of `synco-hub evaluate`."""

    dataset: str = "fractals"
    data_dir: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    split_seed: int = 0


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
    return EvaluationDataset(images, transform)


def best_device(device: str | None) -> str:
    """The device that was asked for, else an accelerator if there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")
