"""What a reader of original files finds: the images of a split, and where in the user's folder they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from synco_hub.data.image_folder import ImageFolderDataset, subfolders


class LayoutNotFoundError(ValueError):
    """The files of a set are not where its archives put them."""


@dataclass(frozen=True)
class OriginalSplit:
    """One split as its list files say.

    Attributes:
        root: Folder that the names are relative to.
        names: One relative path per image, in the order of the list.
        labels: One class index per image; -1 for every image where `multi_hot` has the classes.
        class_names: In label order.
        rule: Which list made the split.
        multi_hot: 1 present, 0 absent, -1 neither. Shape: (num_images, num_classes).
    """

    root: Path
    names: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]
    rule: str
    multi_hot: npt.NDArray[np.float32] | None = None

    def dataset(self, split: str) -> ImageFolderDataset:
        """The images, decoded when they are asked for."""
        return ImageFolderDataset(
            self.root, self.names, self.labels, self.class_names, split, self.rule, self.multi_hot
        )


def located(folder: Path, *marks: str) -> Path | None:
    """The folder that an archive unpacked into: the one given, or one of those up to two levels below.

    Args:
        folder: What the user gave.
        marks: Relative paths that all have to be there.

    Returns:
        The first one in sorted order, None if there is none.
    """
    level = [folder]
    for _ in range(3):
        for candidate in level:
            if all((candidate / mark).exists() for mark in marks):
                return candidate
        level = [parent / name for parent in level for name in subfolders(parent)]
    return None


def require_located(folder: Path, title: str, *marks: str) -> Path:
    """As `located`.

    Raises:
        LayoutNotFoundError: If there is no such folder.
    """
    found = located(folder, *marks)
    if found is None:
        raise LayoutNotFoundError(
            f"{folder}: {' and '.join(marks)} of {title} were not found there or up to two folders below; unpack the "
            "archives into it."
        )
    return found


def lines_of(path: Path) -> list[str]:
    """The lines of a list file that are not empty, without the blanks around them.

    Raises:
        ValueError: If there is no line, or the file is no text.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is no text ({error}); unpack the original archive again.") from error
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{path}: the list is empty; unpack the original archive again.")
    return lines


def indices_of(names: Sequence[str], class_names: Sequence[str], path: Path) -> list[int]:
    """Label of each class name.

    Raises:
        ValueError: If a name is no class, or a class is named twice.
    """
    index = {name: number for number, name in enumerate(class_names)}
    if len(index) != len(class_names):
        twice = next(name for name in class_names if list(class_names).count(name) > 1)
        raise ValueError(f"{path}: the class {twice!r} is named twice; unpack the original archive again.")
    strangers = sorted(set(names) - set(index))
    if strangers:
        raise ValueError(
            f"{path}: {len(strangers)} classes are not in the set's list of classes ({', '.join(strangers[:3])}); the "
            "two files are of different sets."
        )
    return [index[name] for name in names]
