"""Low-shot training sets: a small share of the labelled images, from a published list or a seeded draw."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.data import DatasetDescription, ImageDataset
from synco_hub.data.image_dataset import fingerprint
from synco_hub.data.random_keys import random_key


class ImageSubset(ImageDataset):
    """Some images of a data set, in its order.

    Args:
        images: The whole data set.
        indices: Which images. Shape: (num_kept,).
        rule: How they were chosen, in words.
    """

    def __init__(self, images: ImageDataset, indices: npt.NDArray[np.int64], rule: str) -> None:
        about = images.description
        super().__init__(
            images.labels[indices],
            images.class_names,
            DatasetDescription(
                name=about.name,
                source=about.source,
                split=about.split,
                num_images=len(indices),
                num_classes=about.num_classes,
                split_rule=f"{about.split_rule}; {rule}",
                fingerprint=fingerprint(about.fingerprint, indices),
            ),
        )
        self.images = images
        self.indices = indices
        multi_hot: Any = getattr(images, "multi_hot", None)
        if multi_hot is not None:
            self.multi_hot = multi_hot[indices]

    def load_image(self, index: int) -> Image.Image:
        """Decodes one image to RGB."""
        return self.images.load_image(int(self.indices[index]))

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.images.name(int(self.indices[index]))


def drawn_subset(images: ImageDataset, fraction: float, seed: int) -> ImageSubset:
    """Draw a share of the images of each class.

    Args:
        images: Labelled images.
        fraction: Share of each class, in (0, 1]; rounded, at least one image.
        seed: Another seed draws other images.

    Raises:
        ValueError: If the fraction is out of range or an image has no label.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"train_fraction={fraction} is not in (0, 1]: low-shot protocols use 0.01 or 0.1")
    images.require_labels("a low-shot draw")
    kept = []
    for label in range(images.num_classes):
        members = np.flatnonzero(images.labels == label)
        if len(members) == 0:
            continue
        generator = np.random.Generator(np.random.PCG64(random_key(seed, label)))
        kept.append(generator.permutation(members)[: max(1, round(fraction * len(members)))])
    indices = np.sort(np.concatenate(kept)).astype(np.int64)
    return ImageSubset(
        images, indices, f"{fraction:g} of each class drawn with seed {seed}, {len(indices)} of {len(images)} images"
    )


def listed_subset(images: ImageDataset, list_file: str | os.PathLike[str]) -> ImageSubset:
    """Keep the images that a file names.

    Args:
        images: Images with names.
        list_file: One image name a line; folders may be left out where file names are unique, as in SimCLR's
            `1percent.txt`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the list is empty, or a line names no image or several.
    """
    wanted = {line.strip() for line in Path(list_file).read_text().splitlines() if line.strip()}
    if not wanted:
        raise ValueError(f"{str(list_file)!r} names no image: give a file with one image name a line")
    whole: dict[str, int] = {}
    by_file_name: dict[str, list[int]] = {}
    for index in range(len(images)):
        whole[images.name(index)] = index
        by_file_name.setdefault(Path(images.name(index)).name, []).append(index)
    found = {name: [whole[name]] if name in whole else by_file_name.get(Path(name).name, []) for name in wanted}
    wrong = sorted(name for name, positions in found.items() if len(positions) != 1)
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(wanted)} images of {str(list_file)!r} name no single image of "
            f"{images.description.name}, first {wrong[0]!r} ({len(found[wrong[0]])} images): give the list that "
            "belongs to this data set, with folders where file names repeat"
        )
    indices = np.array(sorted({positions[0] for positions in found.values()}), dtype=np.int64)
    return ImageSubset(images, indices, f"list {Path(list_file).name}, {len(indices)} of {len(images)} images")
