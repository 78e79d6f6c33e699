"""Test images that a model was pretrained on: what is measured on them says nothing of new images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tqdm import tqdm

from synco_hub.data.decoding import UnreadableImageError, decode_rgb
from synco_hub.data.duplicates import find_duplicates
from synco_hub.data.image_dataset import UNLABELED, DatasetDescription, ImageDataset
from synco_hub.data.picture_matching import (
    VARIANTS,
    cut_tiny_pictures,
    make_thumbnail,
    make_tiny_variants,
    unpack_tiny_pictures,
)
from synco_hub.data.pretraining_images import PretrainingImages, hash_pixels
from synco_hub.data.subsets import ImageSubset

logger = logging.getLogger(__name__)

_NAMED_AT_MOST = 3
_THREADS = 4
_READ_AT_ONCE = 512
_KEYS = 16384  # tiny pictures compared at once
# Likeness of tiny pictures from which on two pictures are compared; and from which on they are named where the
# pretraining images are not at hand to be compared, if few others are as like.
_LEAST_LIKENESS, _SURE_LIKENESS = 0.78, 0.985
_NEIGHBOURS, _FAMILY_FROM = 4, 4
# Most pairs of pictures compared, the most alike first, and most pairs of tiny pictures: minutes, however large a set.
_COMPARED_AT_MOST = 4000
_TINY_PAIRS_AT_MOST = 200_000_000


class PictureFiles(ImageDataset):
    """Pictures without classes by name and source, a file or a function that gives its bytes."""

    def __init__(self, name: str, pictures: Sequence[tuple[str, Path | Callable[[], bytes]]]) -> None:
        about = DatasetDescription(name, name, "test", len(pictures), 0, "", "")
        super().__init__(np.full(len(pictures), UNLABELED), (), about)
        self.pictures = list(pictures)

    def load_image(self, index: int) -> Image.Image:
        """Decodes one picture."""
        name, source = self.pictures[index]
        return decode_rgb(source if isinstance(source, Path) else source(), name)

    def name(self, index: int) -> str:
        """The name that it came with."""
        return self.pictures[index][0]


@dataclass(frozen=True)
class Leak:
    """Test images among those that a model was pretrained on.

    Attributes:
        images: Test images that could be read.
        exact: Names of those with the pixels of a pretraining image.
        near: Names of those that are one picture with a pretraining image, as `data duplicates` compares.
        alike: Names of those that look like one, which is not at hand to be compared.
        looked_at: Test images that near ones were looked for among.
        kept: Pretraining images whose fingerprints are kept, of how many.
    """

    images: int
    exact: list[str]
    near: list[str]
    alike: list[str]
    looked_at: int
    kept: tuple[int, int]

    def describe(self, data: str, pretrained_on: str) -> str | None:
        """One line; None where there is nothing to say."""
        sure = [f"{len(names)} {kind} ({_few(names)})" for kind, names in self._kinds().items() if names]
        if not sure and not self.alike:
            return None
        parts = []
        if sure:
            count = len(self.exact) + len(self.near)
            # Near ones alone may be other shots of what was trained on, which a random split parts.
            among = "among the" if self.exact else "near copies of"
            parts.append(
                f"{count} of {self.images} test images of {data} are {among} images that the model was pretrained "
                f"on ({pretrained_on}): {', '.join(sure)}"
            )
        if self.alike:
            more = "more look" if sure else f"of {self.images} test images of {data} look"
            parts.append(
                f"{len(self.alike)} {more} like a pretraining image of {pretrained_on} that is not at hand to be "
                f"compared ({_few(self.alike)})"
            )
        if self.looked_at < self.images:
            parts.append(f"near ones were looked for among {self.looked_at}")
        if self.kept[0] < self.kept[1]:
            parts.append(f"fingerprints of {self.kept[0]} of {self.kept[1]} pretraining images are kept")
        return "; ".join(parts)

    def _kinds(self) -> dict[str, list[str]]:
        return {"exact": self.exact, "near": self.near}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED_AT_MOST]) + (", …" if len(names) > _NAMED_AT_MOST else "")


def find_leak(images: ImageDataset, pretraining: PretrainingImages, progress: bool = True) -> Leak:
    """Find test images among pretraining images, exactly and nearly.

    Every test image is decoded once. Near ones are found by tiny pictures and compared as `data duplicates` does, in a
    time that has a bound: of many images some, spread over them, and of many pairs the most alike.
    """
    near_at_most = max(_TINY_PAIRS_AT_MOST // max(len(pretraining), 1), 1)
    spread = set(np.linspace(0, len(images) - 1, min(len(images), near_at_most)).astype(int).tolist())
    known = pretraining.hashes
    exact: list[int] = []
    readable: list[int] = []
    variants: dict[int, npt.NDArray[np.float32]] = {}
    for index, number, rows in _read(images, spread, progress):
        readable.append(index)
        if np.isin(number, known):
            exact.append(index)
        elif rows is not None and rows.any():
            variants[index] = rows
    pairs = _find_alike(variants, unpack_tiny_pictures(pretraining.tiny))
    near, alike = _compare(images, pretraining, pairs)
    named = [[images.name(index) for index in indices] for indices in (exact, near, alike)]
    kept = (len(pretraining), pretraining.data.num_images)
    return Leak(len(readable), named[0], named[1], named[2], len(spread & set(readable)), kept)


def _read(
    images: ImageDataset, spread: set[int], progress: bool
) -> Iterator[tuple[int, np.uint64, npt.NDArray[np.float32] | None]]:
    """Position, hash and tiny variants of every readable image; variants of those that are looked at."""

    def read_one(index: int) -> tuple[int, np.uint64, npt.NDArray[np.float32] | None] | None:
        try:
            pixels = images.load_pixels(index)
        except UnreadableImageError:
            return None
        number = np.uint64(int.from_bytes(hash_pixels(pixels)[:8], "little"))
        return index, number, make_tiny_variants(make_thumbnail(pixels)) if index in spread else None

    hidden = None if progress else True
    with (
        ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads,
        tqdm(total=len(images), desc="leak check", unit="img", leave=False, disable=hidden) as bar,
    ):
        for start in range(0, len(images), _READ_AT_ONCE):
            part = range(start, min(start + _READ_AT_ONCE, len(images)))
            for found in threads.map(read_one, part):
                if found is not None:
                    yield found
            bar.update(len(part))


def _find_alike(
    variants: dict[int, npt.NDArray[np.float32]], keys: npt.NDArray[np.float32]
) -> list[tuple[float, int, int]]:
    """Likeness, test image and place of a pretraining image, for the most alike of each test image."""
    found: list[tuple[float, int, int]] = []
    indices = list(variants)
    for begin in range(0, len(indices), _READ_AT_ONCE):
        mine = indices[begin : begin + _READ_AT_ONCE]
        rows = torch.from_numpy(np.stack([variants[index] for index in mine]))
        best: list[tuple[torch.Tensor, torch.Tensor]] = []
        for start in range(0, len(keys), _KEYS):
            theirs = keys[start : start + _KEYS]
            likeness = (rows.view(-1, rows.shape[-1]) @ torch.from_numpy(theirs).T).view(len(mine), -1, len(theirs))
            likeness = likeness.amax(dim=1)
            # The test image may be what is cut out, too.
            whole = rows[:, :: VARIANTS // 2].reshape(-1, rows.shape[-1])
            for windows in cut_tiny_pictures(theirs):
                cut = (whole @ torch.from_numpy(windows).T).view(len(mine), -1, len(theirs))
                likeness = torch.maximum(likeness, cut.amax(dim=1))
            values, columns = likeness.topk(min(_NEIGHBOURS, len(theirs)), dim=1)
            best.append((values, columns + start))
        values, places = (torch.cat(each, dim=1) for each in zip(*best, strict=True))
        values, chosen = values.topk(min(_NEIGHBOURS, values.shape[1]), dim=1)
        places = places.gather(1, chosen)
        for row, column in (values > _LEAST_LIKENESS).nonzero().tolist():
            found.append((float(values[row, column]), mine[row], int(places[row, column])))
    return sorted(found, key=lambda pair: (-pair[0], *pair[1:]))


def _compare(
    images: ImageDataset, pretraining: PretrainingImages, pairs: Sequence[tuple[float, int, int]]
) -> tuple[list[int], list[int]]:
    """Test images that are a pretraining image; and those that look like one, where that is not at hand."""
    if not pairs or pretraining.data.is_drawn:
        return [], []
    theirs = pretraining.data.open()
    if theirs is None:
        sure = [index for likeness, index, _ in pairs if likeness >= _SURE_LIKENESS]
        # What is like many is one of a family of look-alikes.
        return [], sorted({index for index in sure if sure.count(index) < _FAMILY_FROM})
    chosen = pairs[:_COMPARED_AT_MOST]
    mine = np.unique([index for _, index, _ in chosen])
    places = np.unique(pretraining.indices[[place for _, _, place in chosen]])
    found = find_duplicates(
        ImageSubset(images, mine, "alike"),
        ImageSubset(theirs, places, "alike"),
        num_workers=min(_THREADS, os.cpu_count() or 1),
        max_bad_fraction=1.0,
        progress=False,
    )
    members = {member for group in found.groups for member in group.members if member < len(mine)}
    return [int(mine[member]) for member in sorted(members)], []


def check_leak(images: ImageDataset, folders: Sequence[Path], progress: bool = True) -> list[str]:
    """What has to be said of test images and the pretraining images whose fingerprints lie in folders."""
    said = []
    for folder in folders:
        try:
            pretraining = PretrainingImages.read(folder)
        except ValueError as error:
            said.append(f"no leak check: {error}")
            logger.warning("%s", said[-1])
            continue
        if pretraining is None:
            continue
        line = find_leak(images, pretraining, progress).describe(images.description.name, pretraining.data.name)
        if line is not None:
            said.append(line)
            logger.warning("%s", line)
    return said
