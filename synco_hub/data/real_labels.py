"""ImageNet-ReaL: every right class of each validation image of ImageNet, of which there can be several or none.

The labels are those that timm ships, in the order of the official validation files. Which of them an image has is told
by its official file name, or by the order of a whole split that has no names and whose labels agree with it.

Source: Beyer et al. 2020, "Are we done with ImageNet?".
"""

from __future__ import annotations

import json
import pkgutil
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synco_hub.data.class_lists import read_class_list
from synco_hub.data.image_dataset import ImageDataset

# Sets of the catalog whose test split is ImageNet's validation split.
VALIDATED_BY_IMAGENET = ("imagenet-1k", "imagenet-1pct", "imagenet-10pct")
_OFFICIAL = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")
# ImageNet's own labels are among ReaL's for 90 % of the images; in another order hardly any is.
_AGREEMENT = 0.85


@dataclass(frozen=True)
class RealLabels:
    """The right classes of the images of a split, or why they cannot be known.

    Attributes:
        rows: Class indices, padded by -1; a row of -1 alone has no right class and does not count. None where it is
            not known which image is which. Shape: (images, most).
        unknown: Why there are none, in a sentence.
    """

    rows: Tensor | None
    unknown: str = ""

    def take(self, indices: Tensor) -> Self:
        """Those of some images, by their positions."""
        return self if self.rows is None else replace(self, rows=self.rows[indices])

    @property
    def note(self) -> str:
        """What a reader of the numbers has to know."""
        if self.rows is None:
            return self.unknown
        left_out = len(self.rows) - self.count
        return f"ReaL: {left_out} of {len(self.rows)} images have no right class in it and do not count"

    @property
    def count(self) -> int:
        """Images that count."""
        return 0 if self.rows is None else int((self.rows[:, 0] >= 0).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        rows = None if self.rows is None else [[each for each in row if each >= 0] for row in self.rows.tolist()]
        return {"rows": rows, "unknown": self.unknown}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What :meth:`to_dict` gave."""
        rows = values["rows"]
        return cls(None if rows is None else torch.from_numpy(_pad(rows)), values["unknown"])


def find_real_labels(images: ImageDataset) -> RealLabels | None:
    """The ReaL labels of ImageNet's validation images, as numbers of their classes; None of other images."""
    about = images.description
    if about.name not in VALIDATED_BY_IMAGENET or about.split != "test" or not len(images):
        return None
    position = {name: number for number, name in enumerate(images.class_names)}
    wnids = read_class_list("imagenet_1k")
    if not set(wnids) <= set(position):
        return None
    # The last entry is for the padding.
    numbers = np.array([position[wnid] for wnid in wnids] + [-1], dtype=np.int64)
    listed = numbers[_read_labels()]
    named = [_OFFICIAL.search(name) for name in images.file_names()]
    lacking = [index for index, match in enumerate(named) if match is None or not 0 < int(match[1]) <= len(listed)]
    if not lacking:
        return RealLabels(torch.from_numpy(listed[[int(match[1]) - 1 for match in named if match is not None]]))
    if len(lacking) == len(images) == len(listed):
        counts = listed[:, 0] >= 0
        agrees = ((listed == images.labels[:, None]) & (listed >= 0)).any(axis=1)
        if agrees[counts].mean() >= _AGREEMENT:
            return RealLabels(torch.from_numpy(listed))
    return RealLabels(
        None,
        f"no ReaL accuracy: {len(lacking)} of {len(images)} images are not called ILSVRC2012_val_<number> as the "
        f"official files are (first: {images.name(lacking[0])}), and their order is not the official one; give a copy "
        "that keeps the names",
    )


@cache
def _read_labels() -> npt.NDArray[np.int64]:
    """Labels of the official validation files in order, padded by -1. Shape: (50000, most)."""
    stored = pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json")
    assert stored is not None
    return _pad(json.loads(stored))


def _pad(rows: list[list[int]]) -> npt.NDArray[np.int64]:
    padded = np.full((len(rows), max(1, *map(len, rows))), -1, dtype=np.int64)
    for row, labels in zip(padded, rows, strict=True):
        row[: len(labels)] = labels
    return padded
