"""A fixed number of images of a data set, drawn by a seed, for measurements that are too long for all of them."""

from __future__ import annotations

import numpy as np

from synco_hub.data import ImageDataset
from synco_hub.data.image_subset import ImageSubset
from synco_hub.data.random_keys import random_key


def sampled_images(images: ImageDataset, count: int | None, seed: int) -> tuple[ImageDataset, list[int] | None]:
    """Draw images without regard to their classes.

    Args:
        images: The whole data set.
        count: How many; None for all.
        seed: Another seed draws others; a larger count adds to a smaller one.

    Returns:
        The drawn images in the order of the data set, and their positions in it; None for positions if it is whole.

    Raises:
        ValueError: If there are fewer images than asked for, or none is.
    """
    if count is None or count == len(images):
        return images, None
    if not 1 <= count <= len(images):
        raise ValueError(
            f"{count} images of {images.description.name}: its {images.description.split} split has {len(images)}; "
            "give a number from 1 to that, or leave it out for all"
        )
    order = sorted(range(len(images)), key=lambda index: random_key(seed, index))
    chosen = sorted(order[:count])
    return ImageSubset(images, np.array(chosen, dtype=np.int64), f"{count} images drawn by seed {seed}"), chosen
