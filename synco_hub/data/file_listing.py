"""Finds the image files below a folder: in a fixed order, once each, whatever links there are."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

IMAGE_EXTENSIONS = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)


def is_image_name(name: str) -> bool:
    """Whether a file name has an image extension, in any case, and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def subfolders(folder: Path) -> list[str]:
    """Names of the visible folders (and links to folders) directly in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def image_files(folder: Path) -> list[str]:
    """All images below a folder.

    Files are known by their extension; nothing is opened. Links are followed, except where one leads back into a
    folder that contains it.

    Args:
        folder: Where to look, at any depth.

    Returns:
        Paths relative to the folder with `/` between their parts, sorted. Hidden files and folders are left out.
    """
    return sorted(_walk(os.fspath(folder), "", ()))


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, identity))
            elif is_image_name(entry.name):
                yield prefix + entry.name


class NameTable(Sequence[str]):
    """A read-only list of strings in two buffers.

    A million Python strings would be copied into every worker process, page by page, as soon as their reference
    counts are touched. Two buffers stay shared.

    Args:
        names: The strings, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        index = range(len(self))[index]
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._bytes[start : self._ends[index]].tobytes())
