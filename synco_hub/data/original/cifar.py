"""CIFAR-10 and CIFAR-100 as their archives unpack: pickled batches of 32 x 32 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.data.image_dataset import DatasetDescription, ImageDataset, fingerprint
from synco_hub.safe_pickle import PickledArray, load_arrays
from synco_hub.data.original.split import require_located

SIDE = 32


@dataclass(frozen=True)
class _Files:
    """Which files and keys one of the two sets has."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    label_key: str
    names_key: str


FILES = {
    "cifar10": _Files(
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        "labels",
        "label_names",
    ),
    "cifar100": _Files(("train",), ("test",), "meta", "fine_labels", "fine_label_names"),
}


class PixelArrayDataset(ImageDataset):
    """Images that are arrays already.

    Args:
        pixels: uint8. Shape: (num_images, height, width, 3).
        names: One per image.
        labels: One class index per image.
        class_names: In label order.
        description: What to say about the data set.
    """

    def __init__(
        self,
        pixels: npt.NDArray[np.uint8],
        names: Sequence[str],
        labels: Sequence[int],
        class_names: Sequence[str],
        description: DatasetDescription,
    ) -> None:
        super().__init__(labels, class_names, description)
        self.pixels = pixels
        self.names = list(names)

    def load_image(self, index: int) -> Image.Image:
        """One image."""
        return Image.fromarray(self.pixels[index])

    def name(self, index: int) -> str:
        """The file name that the set's authors gave it."""
        return self.names[index]


def read_cifar(set_name: str, folder: Path, split: str) -> PixelArrayDataset:
    """Reads one split.

    Args:
        set_name: `cifar10` or `cifar100`.
        folder: `cifar-10-batches-py` or `cifar-100-python`, or the folder above.
        split: `train` or `test`.

    Raises:
        ValueError: If a file is missing or damaged, or holds anything but arrays and plain values.
    """
    files = FILES[set_name]
    batches = files.train if split == "train" else files.test
    root = require_located(folder, set_name, files.meta, *batches)
    contents = [_batch(root / name, files) for name in batches]
    names_of_classes = _content(root / files.meta).get(files.names_key)
    if not isinstance(names_of_classes, list):
        raise ValueError(f"{root / files.meta}: no list {files.names_key}; unpack the original archive again.")
    class_names = [name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names_of_classes]
    labels = np.concatenate([labels for _, labels, _ in contents])
    names = [name for _, _, part in contents for name in part]
    pixels = np.concatenate([pixels for pixels, _, _ in contents])
    description = DatasetDescription(
        name=set_name,
        source=str(root),
        split=split,
        num_images=len(labels),
        num_classes=len(class_names),
        split_rule=f"files {', '.join(batches)}",
        fingerprint=fingerprint(names, class_names, labels),
    )
    return PixelArrayDataset(pixels, names, labels.tolist(), class_names, description)


def _content(path: Path) -> dict[str, Any]:
    """A pickle's dictionary; keys that Python 2 wrote as bytes become text."""
    content = load_arrays(path.read_bytes(), str(path), "Unpack the original archive again.")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it holds {type(content).__name__}, not a dict; unpack the original archive again.")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def _batch(path: Path, files: _Files) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]:
    content = _content(path)
    array, labels = content.get("data"), content.get(files.label_key)
    data = array.values if isinstance(array, PickledArray) else None
    if data is None or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * SIDE**2:
        raise ValueError(
            f"{path}: data is no array of {3 * SIDE**2} bytes an image; unpack the original archive again."
        )
    if not isinstance(labels, list) or len(labels) != len(data) or not all(isinstance(each, int) for each in labels):
        raise ValueError(f"{path}: {files.label_key} is not one whole number an image; unpack the archive again.")
    names = content.get("filenames") or [f"{path.name}/{index}" for index in range(len(data))]
    names = [name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names]
    pixels = np.ascontiguousarray(data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
    return pixels, np.array(labels, dtype=np.int64), names
