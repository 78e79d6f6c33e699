"""Whether images of the test split are in the training split too: by their file names, or by what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from synco_hub.data.hub_dataset import HubImageDataset
from synco_hub.data.image_dataset import ImageDataset, PixelArrayDataset
from synco_hub.data.image_folder import ImageFolderDataset

# Test images that are looked for, spread over the split, so that the time does not grow with it.
LOOKED_FOR_AT_MOST = 1000
# Published sets have images twice: about a tenth of CIFAR-100's test images have a near-duplicate among the training
# images (Barz and Denzler, "Do We Train on Test Data?", 2020). Only more than that is a mistake of the copy.
PUBLISHED_DUPLICATES = 0.1


def overlap_of(train: ImageDataset, test: ImageDataset) -> str | None:
    """Looks for images of the test split in the training split; no image is decoded.

    Files of one folder are the same if their names are. Files of two folders are compared where their names agree;
    rows of tables and arrays of pixels by what they hold, for at most `LOOKED_FOR_AT_MOST` test images.

    Args:
        train: The training split.
        test: The test split.

    Returns:
        What is wrong in one sentence, None where nothing is or the two cannot be compared.
    """
    if isinstance(train, ImageFolderDataset) and isinstance(test, ImageFolderDataset):
        if train.root == test.root:
            names = sorted(set(train.names) & set(test.names))
            return f"{len(names)} images are in train and in test (first {names[0]})" if names else None
        return _sentence(test, *_files_of_one_name(train, test))
    if isinstance(train, PixelArrayDataset) and isinstance(test, PixelArrayDataset):
        sizes = [np.full(len(images), images.pixels[0].nbytes) for images in (train, test)]
        return _sentence(test, *_same_contents(_pixels_of(train), _pixels_of(test), *sizes))
    if isinstance(train, HubImageDataset) and isinstance(test, HubImageDataset):
        train_sizes, test_sizes = train.encoded_sizes(), test.encoded_sizes()
        if train_sizes is not None and test_sizes is not None:
            return _sentence(test, *_same_contents(train.encoded, test.encoded, train_sizes, test_sizes))
    return None


def _sentence(test: ImageDataset, found: list[int], looked_for: int) -> str | None:
    if len(found) <= PUBLISHED_DUPLICATES * looked_for:
        return None
    return f"{len(found)} of {looked_for} test images looked for are in train too (first {test.name(found[0])})"


def _spread(count: int) -> list[int]:
    """Indices at even distances."""
    return sorted(set(np.linspace(0, count - 1, min(count, LOOKED_FOR_AT_MOST)).astype(int).tolist()))


def _pixels_of(images: PixelArrayDataset) -> Callable[[int], bytes]:
    return lambda index: images.pixels[index].tobytes()


def _same_contents(
    train: Callable[[int], bytes],
    test: Callable[[int], bytes],
    train_sizes: npt.NDArray[np.int64],
    test_sizes: npt.NDArray[np.int64],
) -> tuple[list[int], int]:
    """Test images with the bytes of a training image; only images of one size are read.

    Returns:
        Their indices, and how many were looked for.
    """
    looked_for = _spread(len(test_sizes))
    candidates = np.flatnonzero(np.isin(train_sizes, test_sizes[looked_for])).tolist()
    held = {_digest(train(index)) for index in candidates}
    return [index for index in looked_for if _digest(test(index)) in held], len(looked_for)


def _files_of_one_name(train: ImageFolderDataset, test: ImageFolderDataset) -> tuple[list[int], int]:
    """Test files with the name, without its folders, and the bytes of a training file."""
    looked_for = _spread(len(test))
    wanted = {PurePosixPath(test.names[index]).name for index in looked_for}
    of_name: dict[str, list[str]] = {}
    for name in train.names:
        if (last := PurePosixPath(name).name) in wanted:
            of_name.setdefault(last, []).append(name)
    found = []
    for index in looked_for:
        file = test.root / test.names[index]
        others = [train.root / name for name in of_name.get(file.name, [])]
        if not file.is_file():
            continue
        alike = [other for other in others if other.is_file() and other.stat().st_size == file.stat().st_size]
        if alike and any(other.read_bytes() == file.read_bytes() for other in alike):
            found.append(index)
    return found, len(looked_for)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
