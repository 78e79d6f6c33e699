"""Low-shot training sets: a small share of the labelled images, from a published list or a seeded draw."""

from __future__ import annotations

import os

import numpy as np

from synco_hub.data import ImageDataset
from synco_hub.data.image_subset import ImageSubset, listed_subset
from synco_hub.data.low_shot_lists import LINES, low_shot_list
from synco_hub.data.random_keys import random_key

LISTED_SET = "imagenet-1k"


def low_shot_subset(
    images: ImageDataset,
    fraction: float | None,
    list_file: str | os.PathLike[str] | None,
    seed: int,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ImageDataset:
    """The training images of a low-shot protocol; all of them where none is asked for.

    1 % and 10 % of `imagenet-1k` are SimCLR's lists, so that numbers compare; every other share is drawn.

    Args:
        images: The whole training split.
        fraction: Share of each class.
        list_file: File of image names.
        seed: Seed of the draw.
        cache_dir: Where downloaded lists are kept; None takes the package's own folder.

    Raises:
        ValueError: If both are given, the share is out of range, or the list cannot be had or names other images.
    """
    if fraction is not None and list_file is not None:
        raise ValueError("--train-fraction and --train-list both choose the low-shot images: give one of them.")
    if list_file is not None:
        return listed_subset(images, list_file)
    if fraction is None:
        return images
    percent = next((percent for percent in LINES if fraction == percent / 100), None)
    if percent is not None and images.description.name == LISTED_SET:
        return listed_subset(images, low_shot_list(percent, cache_dir))
    return drawn_subset(images, fraction, seed)


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
