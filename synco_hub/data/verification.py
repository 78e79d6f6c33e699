"""Counts of a data set against its row of the catalog."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synco_hub.data.catalog_row import DatasetRow, Layout
from synco_hub.data.image_dataset import UNLABELED, ImageDataset
from synco_hub.data.image_folder import ImageFolderDataset


@dataclass(frozen=True)
class SplitVerdict:
    """One split, counted.

    Attributes:
        split: `train` or `test`.
        images: Images that are there.
        expected_images: Images of the catalog.
        classes: Classes with at least one image.
        expected_classes: Classes of the catalog.
    """

    split: str
    images: int
    expected_images: int
    classes: int
    expected_classes: int

    @property
    def agrees(self) -> bool:
        """Whether both counts are those of the catalog."""
        return (self.images, self.classes) == (self.expected_images, self.expected_classes)


def verify_split(row: DatasetRow, images: ImageDataset, split: str) -> SplitVerdict:
    """Counts one split; no image is decoded.

    Args:
        row: What the catalog says.
        images: The split as it was loaded.
        split: `train` or `test`.
    """
    expected = row.counts[split]
    # A draw from the original archive has every image, also those that a copy on the Hub lacks.
    if row.layout is Layout.draw and isinstance(images, ImageFolderDataset) and row.table_9 is not None:
        expected = row.table_9[split]
    present = np.unique(images.labels[images.labels != UNLABELED])
    return SplitVerdict(split, len(images), expected, len(present), row.num_classes)
