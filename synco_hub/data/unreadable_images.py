"""Images that cannot be read: what stands in for one, and how many of a data set there are."""

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.samplers import derive_random_key
from synco_hub.settings import DEFAULT_MAX_BAD_FRACTION

logger = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")

GOOD = -1
_STAND_IN_ATTEMPTS = 64
_NAMED_AT_MOST = 10
# Each is opened once more to find its reason; on a disk that fails they are many.
_EXPLAINED_AT_MOST = 1000
_NUMBER = re.compile(r"\d[\d,]*")


class TooManyBadImagesError(ValueError):
    """More distinct images are unreadable than the run allows."""


class _NamedImages(Protocol):
    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...


class UnreadableImages:
    """Book of the unreadable images of one data set, kept in the main process.

    Worker processes cannot share a counter. They mark a batch instead: its `bad_index` column is -1 for a good image
    and the image's position otherwise, and the main process enters the column here.

    Args:
        images: The data set: its length and the names of its images.
        max_bad_fraction: Largest share of distinct unreadable images, in [0, 1].

    Raises:
        ValueError: If the share is not in [0, 1].
    """

    def __init__(self, images: _NamedImages, max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION) -> None:
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction {max_bad_fraction}: a share lies in [0, 1]; the default is 0.01.")
        self._images = images
        self._bad: dict[int, str | None] = {}  # the reasons, in the order of discovery
        self.max_bad_fraction = max_bad_fraction

    def record(self, bad_index: torch.Tensor | Iterable[int]) -> None:
        """Enters the `bad_index` column of a batch; an image counts once, however often it comes.

        Args:
            bad_index: -1 for good images. Over several processes, gather the column first. Shape: (batch,).

        Raises:
            TooManyBadImagesError: If the share of unreadable images is now above `max_bad_fraction`.
        """
        column = bad_index.tolist() if isinstance(bad_index, torch.Tensor) else list(bad_index)
        for index in column:
            if index >= 0 and index not in self._bad:
                reason = _find_reason(self._images, index) if len(self._bad) < _EXPLAINED_AT_MOST else None
                self._bad[index] = reason
                name = self._images.name(index)
                logger.warning("unreadable image skipped: %s", f"{name} ({reason})" if reason else name)
        if len(self._bad) > self.max_bad_fraction * len(self._images):
            raise TooManyBadImagesError(
                f"{self.summary()}; at most a share of {self.max_bad_fraction:g} may be; repair or remove the files, "
                "or allow more with --max-bad-fraction."
            )

    @property
    def indices(self) -> list[int]:
        """Positions of the unreadable images so far, in ascending order."""
        return sorted(self._bad)

    def names(self, limit: int | None = None) -> list[str]:
        """Names of the unreadable images so far, in the order of the data set, at most `limit` of them."""
        return [self._images.name(index) for index in self.indices[:limit]]

    def summary(self) -> str:
        """One line: how many of how many, for each reason with the first ten names."""
        if not self._bad:
            return f"all images read so far of {len(self._images)} were good"
        return f"{len(self._bad)} of {len(self._images)} images cannot be read: {self.reasons()}"

    def reasons(self) -> str:
        """How many images each reason holds for, with the first ten names: `2 × it is a web page (a.jpg, b.jpg)`."""
        groups: dict[str, list[int]] = {}
        for index in self.indices:
            # Numbers differ from file to file: "12 bytes not processed".
            groups.setdefault(_NUMBER.sub("#", self._bad[index] or ""), []).append(index)
        parts = []
        for members in sorted(groups.values(), key=len, reverse=True):
            rest = f" and {len(members) - _NAMED_AT_MOST} more" if len(members) > _NAMED_AT_MOST else ""
            names = ", ".join(self._images.name(index) for index in members[:_NAMED_AT_MOST]) + rest
            reason = self._bad[members[0]]
            parts.append(f"{len(members)} × {reason} ({names})" if reason else names)
        return "; ".join(parts)

    def __len__(self) -> int:
        return len(self._bad)


def _find_reason(images: Any, index: int) -> str | None:
    """Why an image cannot be read: worker processes hand over its number alone. None where nothing can tell."""
    owner: Any = images if hasattr(images, "find_damage") else getattr(images, "images", None)
    reason: str | None = owner.find_damage(index) if hasattr(owner, "find_damage") else None
    return reason


def load_readable_pixels(dataset: ImageDataset, index: int, seed: int = 0) -> tuple[npt.NDArray[np.uint8], int]:
    """As :func:`load_readable`, for the pixels (height, width, 3) of an image."""
    return load_readable(dataset.load_pixels, len(dataset), index, seed)


def load_readable(load: Callable[[int], Loaded], num_images: int, index: int, seed: int = 0) -> tuple[Loaded, int]:
    """Loads an image, or a fixed other one in place of a damaged one.

    The second value is -1 for the image that was asked for, else its index: a batch keeps its size and says which
    could not be read. The stand-ins of an index are tried in an order that depends on seed and index alone: all
    processes, epochs and resumed runs take the same one.
    """
    try:
        return load(index), GOOD
    except UnreadableImageError as error:
        logger.debug("%s", error)
        last = error
    for attempt in range(_STAND_IN_ATTEMPTS):
        try:
            return load(derive_random_key(seed, index, attempt) % num_images), index
        except UnreadableImageError as error:
            last = error
    raise UnreadableImageError(
        last.name, f"{last.reason}; neither could it be read nor any of {_STAND_IN_ATTEMPTS} images in its place"
    )
