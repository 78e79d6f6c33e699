"""What stands in for an image that cannot be read."""

import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.random_keys import random_key

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")
GOOD = -1
_STAND_IN_ATTEMPTS = 64


def readable_image(dataset: ImageDataset, index: int, seed: int = 0) -> tuple[Image.Image, int]:
    """Loads an image, or a fixed other one in place of a damaged one, see `first_readable`."""
    return first_readable(dataset.load_image, len(dataset), index, seed)


def readable_pixels(dataset: ImageDataset, index: int, seed: int = 0) -> tuple[npt.NDArray[np.uint8], int]:
    """As `readable_image`, as an array. Shape of the pixels: (height, width, 3)."""
    return first_readable(dataset.load_pixels, len(dataset), index, seed)


def first_readable(load: Callable[[int], Loaded], num_images: int, index: int, seed: int) -> tuple[Loaded, int]:
    """Loads an image, or a fixed other one in place of a damaged one, so that a batch keeps its size.

    The stand-ins of an index are tried in an order that depends on seed and index alone: all processes, epochs and
    resumed runs take the same one.

    Args:
        load: Reads an image by its position.
        num_images: How many positions there are.
        index: Which image.
        seed: Another seed chooses other stand-ins.

    Returns:
        The image, and -1 if it is the one asked for, else the index that could not be read.

    Raises:
        UnreadableImageError: If no stand-in is readable either.
    """
    try:
        return load(index), GOOD
    except UnreadableImageError as error:
        logger.debug("%s", error)
        last = error
    for attempt in range(_STAND_IN_ATTEMPTS):
        try:
            return load(random_key(seed, index, attempt) % num_images), index
        except UnreadableImageError as error:
            last = error
    raise UnreadableImageError(
        last.name, f"{last.reason}; neither could it be read nor any of {_STAND_IN_ATTEMPTS} images in its place"
    )
