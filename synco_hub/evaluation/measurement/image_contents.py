"""What image files hold, as a short hash: a finished part of a measurement counts only while its files are the same.

Names do not tell: images are replaced under the same names, and folders move. So every byte is read, which costs
little beside decoding the image and sending it through a network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from synco_hub.data import ImageDataset, UnreadableImageError
from synco_hub.data.corruptions import WatermarkedImages
from synco_hub.data.image_dataset import fingerprint

# Reading waits for the disk, and hashing gives the interpreter free.
_THREADS = 8
# Files of one task, so that a million images are not a million tasks.
_RUN = 64


def contents_of_images(images: ImageDataset, positions: Sequence[int] | None = None) -> str:
    """Hash of the stored images, in their order; where they lie and what they are called plays no part.

    Args:
        images: A data set.
        positions: Which of its images; None for all.

    Returns:
        16 hexadecimal digits.
    """
    if isinstance(images, WatermarkedImages):
        return contents_of_images(images.images, positions)  # the mark is drawn on the view, not stored
    return _hash_of(images.encoded, range(len(images)) if positions is None else positions)


def contents_of_files(files: Sequence[Path]) -> str:
    """Hash of files, in their order; a missing one has a mark of its own.

    Args:
        files: Any files.

    Returns:
        16 hexadecimal digits.
    """
    return _hash_of(lambda number: files[number].read_bytes(), range(len(files)))


def _hash_of(read: Callable[[int], bytes], positions: Sequence[int]) -> str:
    def digests(start: int) -> list[str]:
        return [_digest(read, position) for position in positions[start : start + _RUN]]

    # The first run alone: a data set that is drawn or opened by its first image is drawn or opened once.
    first = digests(0)
    with ThreadPoolExecutor(_THREADS) as threads:
        rest = threads.map(digests, range(_RUN, len(positions), _RUN))
        return fingerprint([*first, *(digest for run in rest for digest in run)])


def _digest(read: Callable[[int], bytes], position: int) -> str:
    try:
        return hashlib.blake2b(read(position), digest_size=16).hexdigest()
    except (OSError, UnreadableImageError):
        return "unreadable"
