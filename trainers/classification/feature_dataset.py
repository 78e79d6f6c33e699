"""Cached features as a data set: quick probing without augmentation."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor
from torch.utils.data import Dataset


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
