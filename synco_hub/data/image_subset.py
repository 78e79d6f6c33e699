"""Some images of a data set: those that a file lists, or those of some classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.data.image_dataset import UNLABELED, ImageDataset, fingerprint


class ImageSubset(ImageDataset):
    """Some images of a data set, in its order.

    Args:
        images: The whole data set.
        indices: Which images. Shape: (num_kept,).
        rule: How they were chosen, in words.
        labels: Other labels for them, with the names of their classes; None keeps those of the whole.
        class_names: See `labels`.
    """

    def __init__(
        self,
        images: ImageDataset,
        indices: npt.NDArray[np.int64],
        rule: str,
        labels: npt.NDArray[np.int64] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        names = images.class_names if class_names is None else list(class_names)
        description = replace(
            images.description,
            num_images=len(indices),
            num_classes=len(names),
            split_rule=f"{images.description.split_rule}; {rule}",
            fingerprint=fingerprint(images.description.fingerprint, indices),
        )
        super().__init__(images.labels[indices] if labels is None else labels, names, description)
        self.images = images
        self.indices = indices
        if images.multi_hot is not None:
            self.multi_hot = images.multi_hot[indices]

    def load_image(self, index: int) -> Image.Image:
        """Decodes one image to RGB."""
        return self.images.load_image(int(self.indices[index]))

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.images.name(int(self.indices[index]))

    def load_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Decodes one image to an array."""
        return self.images.load_pixels(int(self.indices[index]))

    def encoded(self, index: int) -> bytes:
        """One image as a file."""
        return self.images.encoded(int(self.indices[index]))


def listed_subset(images: ImageDataset, list_file: str | os.PathLike[str]) -> ImageSubset:
    """Keep the images that a file names.

    Args:
        images: Images with names.
        list_file: One image name a line; folders and the extension may be left out where file names are unique, as in
            SimCLR's `1percent.txt`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the list is empty, or a line names no image or several.
    """
    wanted = {line.strip() for line in Path(list_file).read_text().splitlines() if line.strip()}
    if not wanted:
        raise ValueError(f"{str(list_file)!r} names no image: give a file with one image name a line")
    by_path: dict[str, list[int]] = {}
    by_file_name: dict[str, list[int]] = {}
    by_stem: dict[str, list[int]] = {}
    for index, name in enumerate(images.file_names()):
        by_path.setdefault(name, []).append(index)
        by_file_name.setdefault(Path(name).name, []).append(index)
        by_stem.setdefault(Path(name).stem, []).append(index)
    found = {
        name: by_path.get(name) or by_file_name.get(Path(name).name) or by_stem.get(Path(name).stem) or []
        for name in wanted
    }
    wrong = sorted(name for name, positions in found.items() if len(positions) != 1)
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(wanted)} images of {str(list_file)!r} name no single image of "
            f"{images.description.name}, first {wrong[0]!r} ({len(found[wrong[0]])} images): give the list that "
            "belongs to this data set, with folders where file names repeat"
        )
    indices = np.array(sorted({positions[0] for positions in found.values()}), dtype=np.int64)
    return ImageSubset(images, indices, f"list {Path(list_file).name}, {len(indices)} of {len(images)} images")


def spread_subset(images: ImageDataset, max_images: int) -> ImageDataset:
    """Keep so many images at most, one of each of as many equal stretches: of images sorted by class as many of each.

    The same ones at every call.

    Args:
        images: The whole data set.
        max_images: How many at most, at least 1. A data set that has no more is returned as it is.

    Raises:
        ValueError: If the number is below 1.
    """
    if max_images < 1:
        raise ValueError(f"max_images={max_images} of {images.description.name}: give at least 1, or leave it out.")
    if len(images) <= max_images:
        return images
    bounds = np.arange(max_images + 1, dtype=np.int64) * len(images) // max_images
    # Not the first of each stretch: where classes take turns, that could always be the same class.
    indices = np.random.default_rng(0).integers(bounds[:-1], bounds[1:])
    return ImageSubset(images, indices, f"{max_images} of {len(images)} images, spread over them")


def subset_of_classes(images: ImageDataset, class_names: Sequence[str]) -> ImageSubset:
    """Keep the images of some classes, labelled by their order.

    Args:
        images: Labelled images.
        class_names: The classes to keep, in the new label order.

    Raises:
        ValueError: If a class is not among those of the images.
    """
    position = {name: number for number, name in enumerate(images.class_names)}
    missing = [name for name in class_names if name not in position]
    if missing:
        raise ValueError(
            f"{images.description.name} has no {', '.join(missing[:3])}: {len(missing)} of {len(class_names)} classes "
            "are not among its own; give the data set that they belong to"
        )
    translated = np.full(len(images.class_names) + 1, UNLABELED, dtype=np.int64)
    translated[[position[name] for name in class_names]] = np.arange(len(class_names))
    labels = translated[images.labels]  # an unlabeled image takes the last entry, which is -1
    indices = np.flatnonzero(labels != UNLABELED).astype(np.int64)
    rule = f"{len(class_names)} of {images.num_classes} classes"
    return ImageSubset(images, indices, rule, labels[indices], class_names)
