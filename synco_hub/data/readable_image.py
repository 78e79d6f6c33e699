"""What stands in for an image that cannot be read."""

import logging

import numpy as np
import numpy.typing as npt

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.random_keys import random_key

logger = logging.getLogger(__name__)

GOOD = -1
_STAND_IN_ATTEMPTS = 64


def readable_pixels(dataset: ImageDataset, index: int, seed: int = 0) -> tuple[npt.NDArray[np.uint8], int]:
    """Loads an image, or a fixed other one in place of a damaged one, so that a batch keeps its size.

    The stand-ins of an index are tried in an order that depends on seed and index alone: all processes, epochs and
    resumed runs take the same one.

    Args:
        dataset: Where the images are.
        index: Which image.
        seed: Another seed chooses other stand-ins.

    Returns:
        The pixels (height, width, 3), and -1 if they are those asked for, else the index that could not be read.

    Raises:
        UnreadableImageError: If no stand-in is readable either.
    """
    try:
        return dataset.load_pixels(index), GOOD
    except UnreadableImageError as error:
        logger.debug("%s", error)
        last = error
    for attempt in range(_STAND_IN_ATTEMPTS):
        try:
            return dataset.load_pixels(random_key(seed, index, attempt) % len(dataset)), index
        except UnreadableImageError as error:
            last = error
    raise UnreadableImageError(
        last.name, f"{last.reason}; neither could it be read nor any of {_STAND_IN_ATTEMPTS} images in its place"
    )
