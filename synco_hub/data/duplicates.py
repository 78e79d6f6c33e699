"""Pictures that are there twice: the same file, the same pixels, or a compressed, cut, resized or mirrored copy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.picture_matching import (
    SIDE,
    Calibration,
    Candidate,
    Pixels,
    calibrate,
    choose_candidate,
    find_candidates,
    is_flat,
    is_mirrored,
    make_thumbnail,
    measure_similarity,
    shrink_to_copy,
)
from synco_hub.data.pretraining_images import hash_content, hash_pixels
from synco_hub.data.unreadable_images import UnreadableImages
from synco_hub.settings import DEFAULT_MAX_BAD_FRACTION

_NEIGHBOURS = 16  # candidates of a picture at most
_CALIBRATED_ON = 200  # pictures that copies are made of
_AT_ONCE = 512  # pictures or pairs handed to the threads
# A picture is one of a family, such as of drawings by one program, if of so many that are like it, or lack little of
# that, fewer than this share are like each other.
_FAMILY_FROM, _FAMILY_SHARE, _FAMILY_LOOKED_AT, _FAMILY_MARGIN = 4, 0.5, 8, 0.03

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True)
class DuplicateGroup:
    """Files that all are one picture, each pair of them verified.

    Attributes:
        members: Indices into `Duplicates.names`, in ascending order.
        kind: `bytes` and `pixels` where all agree in these, else `near`.
        similarity: The lowest of all pairs, 1 for equal pixels.
        mirrored: Whether a pair is a picture and its mirror image.
    """

    members: tuple[int, ...]
    kind: str
    similarity: float
    mirrored: bool


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        names: File name of every picture; with the folder or source of its data set where there are two.
        groups: Pictures that are there more than once; of two data sets those that are in both. A file is in several
            groups if it is like files that are not like each other.
        flat: Pictures without texture: they are compared by their pixels alone.
        families: Pictures that are like many which are not like each other, and not said to be copies for that.
        calibration: From which similarity on two pictures count as one.
        skipped: Names of unreadable images.
    """

    names: list[str]
    groups: list[DuplicateGroup]
    flat: list[int]
    families: list[list[int]]
    calibration: Calibration
    skipped: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `details` says of each of `groups` how it is alike."""
        return {
            "groups": [[self.names[member] for member in group.members] for group in self.groups],
            "details": [
                {"kind": group.kind, "similarity": round(group.similarity, 4), "mirrored": group.mirrored}
                for group in self.groups
            ],
            "flat": [self.names[member] for member in self.flat],
            "families": [[self.names[member] for member in family] for family in self.families],
            "images": len(self.names),
            "skipped_files": self.skipped,
            "threshold": round(self.calibration.threshold, 4),
            "recall_of_made_copies": round(self.calibration.recall, 4),
            "made_copies": self.calibration.copies,
        }


class _Pictures:
    """All images of one or two sides in a row."""

    def __init__(self, sides: Sequence[Sequence[ImageDataset]]) -> None:
        self.sets = [images for side in sides for images in side]
        self.ends = np.cumsum([len(images) for images in self.sets])
        self.side = np.array(
            [1 << number for number, side in enumerate(sides) for images in side for _ in range(len(images))], np.int64
        )
        own = [[images.name(k) for k in range(len(images))] for images in self.sets]
        if len(sides) > 1:
            own = [
                [str(PurePath(images.description.source, name)) for name in names]
                for images, names in zip(self.sets, own, strict=True)
            ]
        self.names = [name for names in own for name in names]
        if len(set(self.names)) < len(self.names):
            self.names = [
                f"{images.description.split}/{name}"
                for images, names in zip(self.sets, own, strict=True)
                for name in names
            ]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def find(self, index: int) -> tuple[ImageDataset, int]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        return self.sets[number], index - int(self.ends[number] - len(self.sets[number]))

    def load_pixels(self, index: int) -> Pixels:
        images, place = self.find(index)
        return images.load_pixels(place)

    def find_damage(self, index: int) -> str | None:
        images, place = self.find(index)
        return images.find_damage(place)


def find_duplicates(
    images: ImageDataset | Sequence[ImageDataset],
    others: ImageDataset | Sequence[ImageDataset] = (),
    flips: bool = True,
    vectors: npt.NDArray[np.float32] | None = None,
    num_workers: int = 4,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
    seed: int = 0,
    progress: bool = True,
) -> Duplicates:
    """Find pictures that are there more than once, exactly or nearly, without a model.

    Args:
        images: A data set, or its splits.
        others: Another one; then only what is in both is looked for.
        flips: Whether a mirror image is the same picture.
        vectors: Features of all images, then of all others; NaN where there are none. What is near by them is looked
            at, too. Shape: (num_images, dim).
        num_workers: Threads that decode and compare.
        max_bad_fraction: Largest share of images that may be unreadable.
        seed: Of the copies on which the threshold is calibrated.
        progress: Show progress bars.

    Returns:
        Groups, and what is reported apart.

    Raises:
        ValueError: If a side has no image.
        TooManyBadImagesError: If too many images cannot be read.
    """
    sides = [[each] if isinstance(each, ImageDataset) else list(each) for each in (images, others)]
    pictures = _Pictures(sides if sides[1] else sides[:1])
    if len(pictures) == 0 or (sides[1] and set(pictures.side.tolist()) != {1, 2}):
        raise ValueError("a side has no image: give data sets that hold some")
    if num_workers < 1:
        raise ValueError(f"num_workers={num_workers}: give at least 1 thread")
    ledger = UnreadableImages(pictures, max_bad_fraction)
    with ThreadPoolExecutor(num_workers) as threads:
        search = _Search(pictures, bool(sides[1]), flips, threads, progress)
        search.read(ledger)
        calibration = search.calibrate(seed)
        search.verify(search.candidates(vectors), calibration.threshold)
    families = search.set_families_apart()
    groups = sorted(search.groups(), key=lambda group: group.members)
    flat = [k for k in range(len(pictures)) if search.flat[k]]
    return Duplicates(pictures.names, groups, flat, families, calibration, ledger.names())


class _Search:
    """Equal pixels are one picture, which its first file stands for; edges are verified pairs of pictures."""

    def __init__(
        self, pictures: _Pictures, across: bool, flips: bool, threads: ThreadPoolExecutor, progress: bool
    ) -> None:
        self.pictures, self.across, self.flips, self.threads, self.progress = (
            pictures,
            across,
            flips,
            threads,
            progress,
        )
        # On the disk, without a name: the file goes when the array does.
        with tempfile.TemporaryFile() as file:
            self.thumbnails: Any = np.memmap(file, np.uint8, "w+", shape=(len(pictures), SIDE, SIDE, 3))
        self.sizes = np.zeros((len(pictures), 2), dtype=np.int64)
        self.flat = np.zeros(len(pictures), dtype=bool)
        self.side = pictures.side.copy()
        self.files: dict[int, list[int]] = {}
        self.similarities: dict[tuple[int, int], tuple[float, bool]] = {}
        self.edges: dict[int, set[int]] = {}
        self.threshold = 1.0

    def _map(self, function: Callable[[Given], Made], items: Sequence[Given], words: str, unit: str) -> Iterator[Made]:
        """In threads and in order; a part at a time, so that results do not pile up."""
        with tqdm(total=len(items), desc=words, unit=unit, disable=not self.progress) as bar:
            for start in range(0, len(items), _AT_ONCE):
                part = items[start : start + _AT_ONCE]
                yield from self.threads.map(function, part)
                bar.update(len(part))

    def read(self, ledger: UnreadableImages) -> None:
        """Decode every image once."""
        first: dict[bytes, int] = {}
        for index, digest in enumerate(self._map(self._read_one, range(len(self.pictures)), "reading", "img")):
            if digest is None:
                ledger.record([index])
                continue
            place = first.setdefault(digest, index)
            self.files.setdefault(place, []).append(index)
            self.side[place] |= self.side[index]

    def _read_one(self, index: int) -> bytes | None:
        try:
            pixels = self.pictures.load_pixels(index)
        except UnreadableImageError:
            return None
        self.thumbnails[index] = make_thumbnail(pixels)
        self.sizes[index] = pixels.shape[1], pixels.shape[0]
        self.flat[index] = is_flat(self.thumbnails[index])
        return hash_pixels(pixels)

    def _textured(self) -> npt.NDArray[np.int64]:
        return np.array([place for place in self.files if not self.flat[place]], dtype=np.int64)

    def calibrate(self, seed: int) -> Calibration:
        places = self._textured()
        chosen = np.random.default_rng(seed).permutation(places)[:_CALIBRATED_ON]
        loaded = self._map(self._load_to_copy, chosen.tolist(), "calibrating", "img")
        return calibrate(loaded, seed, self.flips)

    def _load_to_copy(self, index: int) -> Pixels:
        return shrink_to_copy(self.pictures.load_pixels(index))

    def may_match(self, queries: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Shape: (queries, keys)."""
        differ: npt.NDArray[np.bool_] = queries[:, None] != keys
        if self.across:
            mine, theirs = self.side[queries][:, None], self.side[keys]
            differ &= ((mine & 1) & (theirs >> 1) | (mine >> 1) & (theirs & 1)).astype(bool)
        return differ

    def candidates(self, vectors: npt.NDArray[np.float32] | None) -> list[Candidate]:
        places = self._textured()
        with tqdm(total=len(places), desc="looking for candidates", unit="img", disable=not self.progress) as bar:
            found = find_candidates(self.thumbnails, places, self.may_match, _NEIGHBOURS, self.flips, bar.update)
        if vectors is None:
            return found
        known = {(min(pair.first, pair.second), max(pair.first, pair.second)) for pair in found}
        further = set(self._near_by_vectors(vectors, places)) - known
        return found + [self._candidate(*pair) for pair in sorted(further)]

    def _near_by_vectors(
        self, vectors: npt.NDArray[np.float32], places: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, int]]:
        places = places[np.isfinite(vectors[places]).all(axis=1)]
        units = torch.nn.functional.normalize(torch.from_numpy(vectors[places]).float(), dim=1)
        for start in range(0, len(places), _AT_ONCE):
            mine = places[start : start + _AT_ONCE]
            cosines = units[start : start + _AT_ONCE] @ units.T
            cosines[~torch.from_numpy(self.may_match(mine, places))] = -2
            values, columns = cosines.topk(min(_NEIGHBOURS, len(places)), dim=1)
            for row, column in (values > -2).nonzero().tolist():
                one, other = int(mine[row]), int(places[columns[row, column]])
                yield min(one, other), max(one, other)

    def _candidate(self, first: int, second: int) -> Candidate:
        return choose_candidate(self.thumbnails, first, second, self.flips)

    def _measure(self, pair: Candidate) -> float:
        one, other = pair.first, pair.second
        sizes = [(int(width), int(height)) for width, height in self.sizes[[one, other]]]
        return measure_similarity(self.thumbnails[one], self.thumbnails[other], pair.variant, *sizes)

    def _note(self, pair: Candidate, similarity: float) -> None:
        one, other = sorted((pair.first, pair.second))
        self.similarities[one, other] = similarity, is_mirrored(pair.variant)
        if similarity >= self.threshold:
            self.edges.setdefault(one, set()).add(other)
            self.edges.setdefault(other, set()).add(one)

    def verify(self, candidates: Sequence[Candidate], threshold: float) -> None:
        self.threshold = threshold
        for pair, similarity in zip(
            candidates, self._map(self._measure, candidates, "comparing", "pair"), strict=True
        ):
            self._note(pair, similarity)

    def are_alike(self, first: int, second: int) -> bool:
        """Whether a pair is verified; one that was no candidate is compared now."""
        key = min(first, second), max(first, second)
        if key not in self.similarities:
            pair = self._candidate(*key)
            self.similarities[key] = self._measure(pair), is_mirrored(pair.variant)
        return self.similarities[key][0] >= self.threshold

    def set_families_apart(self) -> list[list[int]]:
        """Take pictures out of the search that are like many which are not like each other."""
        loose: dict[int, list[tuple[float, int]]] = {}
        for (one, other), (similarity, _) in self.similarities.items():
            if similarity >= self.threshold - _FAMILY_MARGIN:
                loose.setdefault(one, []).append((-similarity, other))
                loose.setdefault(other, []).append((-similarity, one))
        apart = set()
        for place, near in loose.items():
            if len(near) >= _FAMILY_FROM and place in self.edges:
                pairs = list(combinations([other for _, other in sorted(near)[:_FAMILY_LOOKED_AT]], 2))
                if sum(self.are_alike(*pair) for pair in pairs) < _FAMILY_SHARE * len(pairs):
                    apart.add(place)
        families = []
        left = set(apart)
        while left:
            family, front = set(), {min(left)}
            while front:
                family |= front
                front = {other for place in front for other in self.edges[place] if other in apart} - family
            families.append(sorted(family))
            left -= family
        self.edges = {place: near - apart for place, near in self.edges.items() if place not in apart}
        return families

    def _similarity(self, one: int, other: int) -> float:
        return self.similarities[min(one, other), max(one, other)][0]

    def groups(self) -> Iterator[DuplicateGroup]:
        """Every verified pair is in a group, and of a group every pair is verified."""
        grouped: set[int] = set()
        covered: set[tuple[int, int]] = set()
        edges = [(one, other) for one, near in self.edges.items() for other in near if one < other]
        for edge in sorted(edges, key=lambda edge: (-self._similarity(*edge), edge)):
            if edge in covered:
                continue
            group = list(edge)
            for place in sorted(self.edges[edge[0]] | self.edges[edge[1]]):
                if place not in group and all(self.are_alike(place, member) for member in group):
                    group.append(place)
            covered |= set(combinations(sorted(group), 2))
            grouped |= set(group)
            yield self._describe(group)
        for place, files in self.files.items():
            if place not in grouped and len(files) > 1 and (not self.across or self.side[place] == 3):
                yield self._describe([place])

    def _describe(self, group: Sequence[int]) -> DuplicateGroup:
        files = tuple(sorted(file for place in group for file in self.files[place]))
        if len(group) == 1:
            kind = "bytes" if len({self._hash_file(file) for file in files}) == 1 else "pixels"
            return DuplicateGroup(files, kind, 1.0, False)
        pairs = [self.similarities[pair] for pair in combinations(sorted(group), 2)]
        return DuplicateGroup(files, "near", min(value for value, _ in pairs), any(turned for _, turned in pairs))

    def _hash_file(self, index: int) -> bytes:
        images, place = self.pictures.find(index)
        return hash_content(images.encoded(place))
