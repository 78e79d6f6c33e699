"""Which reader knows the original files of which set of the catalog."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.original.cifar import read_cifar
from synco_hub.data.original.lists import read_dtd, read_fgvc_aircraft, read_food101, read_oxford_pets, read_sun397
from synco_hub.data.original.matlab import read_flowers102, read_stanford_cars
from synco_hub.data.original.split import OriginalSplit
from synco_hub.data.original.voc import read_voc2007

READERS: dict[str, Callable[[Path, str], OriginalSplit | ImageDataset]] = {
    "cifar10": partial(read_cifar, "cifar10"),
    "cifar100": partial(read_cifar, "cifar100"),
    "flowers102": read_flowers102,
    "oxford-pets": read_oxford_pets,
    "food101": read_food101,
    "stanford-cars": read_stanford_cars,
    "dtd": read_dtd,
    "fgvc-aircraft": read_fgvc_aircraft,
    "sun397": read_sun397,
    "voc2007": read_voc2007,
}


def read_original(name: str, folder: Path, split: str) -> ImageDataset:
    """Reads a split of a set from its original files.

    Args:
        name: A key of `READERS`.
        folder: Where its archives were unpacked.
        split: `train` or `test`.

    Raises:
        ValueError: If files are missing or damaged.
    """
    found = READERS[name](folder, split)
    return found.dataset(split) if isinstance(found, OriginalSplit) else found
