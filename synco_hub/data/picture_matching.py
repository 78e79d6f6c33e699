"""Whether two pictures are one: found by small thumbnails, laid over each other, compared place by place.

No model. A copy may be compressed, cut by a tenth, mirrored or resized. What its similarity is then is measured on
pictures of the set itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from synco_hub.data.decoding import decode_pixels, opencv

Pixels = npt.NDArray[np.uint8]

SIDE = 64  # of a thumbnail, into which a picture of any shape is squeezed
_COARSE = 16  # side of what candidates are found by
_PLACES = 6  # similarity is that of the least similar of 6 × 6 places
# Which part of one picture another may show, as left, top and side: all of it, or 90 % from anywhere.
_WINDOWS = ((0.0, 0.0, 1.0), *((x, y, 0.9) for x in (0, 0.05, 0.1) for y in (0, 0.05, 0.1)))
# Variants of a picture: its windows, then those of its mirror image.
VARIANTS = 2 * len(_WINDOWS)
# Copies lie above it, all but one in hundreds; of other pictures few do.
_LEAST_LIKENESS = 0.6
_QUERIES, _KEYS = 256, 4096  # pictures compared at once
# Deviation of brightness from its best plane, in levels of 255, below which noise decides what is like what.
_LEAST_TEXTURE = 2.0
_LEAST_OVERLAP = 0.6
# Of one picture against another, in sides: both may be cut by a tenth.
_MOST_SHIFT = 0.15
# The lowest and highest threshold, whatever a few or odd pictures say; the share of copies that may be lost for it.
_THRESHOLDS = (0.8, 0.95)
_LOST = 0.03
_COPIED_SIDE = 512
# A tiny picture says which pictures of another data set are worth a look: its levels reach so many deviations.
TINY_SIDE = 8
_TINY_REACH, _TINY_LEVELS = 2.5, 15


def make_thumbnail(pixels: Pixels) -> Pixels:
    """Shape: (SIDE, SIDE, 3)."""
    return _shrink(pixels, SIDE, SIDE)


def shrink_to_copy(pixels: Pixels) -> Pixels:
    """A picture of at most `_COPIED_SIDE` pixels a side: copies of it are compared by far fewer."""
    scale = min(1.0, _COPIED_SIDE / max(pixels.shape[:2]))
    return pixels if scale == 1 else _shrink(pixels, *(max(1, round(scale * side)) for side in pixels.shape[1::-1]))


def _shrink(pixels: npt.NDArray[np.generic], width: int, height: int) -> Pixels:
    cv2 = opencv()
    small: Pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return small


def is_flat(thumbnail: Pixels) -> bool:
    """Whether a picture shows nothing but one colour or a smooth slope of brightness."""
    levels = _shrink(thumbnail, _COARSE, _COARSE).mean(axis=2, dtype=np.float64)
    y, x = np.mgrid[-1 : 1 : _COARSE * 1j, -1 : 1 : _COARSE * 1j]
    plane = np.stack([np.ones_like(x), x, y], axis=-1).reshape(-1, 3)
    rest = levels.reshape(-1) - plane @ np.linalg.lstsq(plane, levels.reshape(-1), rcond=None)[0]
    return bool(rest.std() < _LEAST_TEXTURE)


def _coarse_variants(thumbnail: Pixels, variants: int) -> npt.NDArray[np.float32]:
    """Unit vectors. Shape: (variants, 3 · _COARSE²)."""
    parts = _cut_variants(thumbnail)[:variants]
    return _units(
        np.stack([_shrink(part, _COARSE, _COARSE) for part in parts]).reshape(variants, -1).astype(np.float32)
    )


def _cut_variants(thumbnail: Pixels) -> list[Pixels]:
    """Its windows, then those of its mirror image."""
    parts = []
    for turned in (thumbnail, thumbnail[:, ::-1]):
        for x, y, side in _WINDOWS:
            top, left, size = round(y * SIDE), round(x * SIDE), round(side * SIDE)
            parts.append(np.ascontiguousarray(turned[top : top + size, left : left + size]))
    return parts


def _tiny_rows(parts: Iterable[Pixels]) -> npt.NDArray[np.float32]:
    """Brightness, less its mean and over its deviation; zeros where there is no texture. Shape: (parts, 64)."""
    levels = np.stack([_shrink(part, TINY_SIDE, TINY_SIDE).mean(axis=2, dtype=np.float32) for part in parts])
    rows = levels.reshape(len(levels), -1)
    rows -= rows.mean(axis=1, keepdims=True)
    deviation = rows.std(axis=1, keepdims=True)
    found: npt.NDArray[np.float32] = np.where(deviation < _LEAST_TEXTURE, 0, rows / np.maximum(deviation, 1e-6))
    return found


def make_tiny_picture(thumbnail: Pixels) -> Pixels:
    """A thumbnail in 32 bytes, two levels a byte; zeros where it has no texture. Shape: (32,)."""
    row = _tiny_rows([thumbnail])[0]
    if not row.any():
        return np.zeros(len(row) // 2, dtype=np.uint8)
    levels = np.clip(np.rint((row / _TINY_REACH + 1) * _TINY_LEVELS / 2), 0, _TINY_LEVELS).astype(np.uint8)
    packed: Pixels = levels[::2] << 4 | levels[1::2]
    return packed


def unpack_tiny_pictures(packed: Pixels) -> npt.NDArray[np.float32]:
    """Unit vectors of tiny pictures; zeros of those without texture. Shape: (pictures, 64)."""
    levels = np.stack([packed >> 4, packed & _TINY_LEVELS], axis=-1).reshape(len(packed), -1).astype(np.float32)
    return _units(levels)


def make_tiny_variants(thumbnail: Pixels) -> npt.NDArray[np.float32]:
    """Unit vectors of all variants of a picture as tiny pictures have them. Shape: (VARIANTS, 64)."""
    return _units(_tiny_rows(_cut_variants(thumbnail)))


def cut_tiny_pictures(pictures: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """Unit vectors of what each window of unpacked tiny pictures shows. Shape of each: (pictures, 64)."""
    steps = np.arange(TINY_SIDE)
    for x, y, side in _WINDOWS[1:]:
        # Of each place of the window the weights of the places of the picture, down and across.
        down, across = (
            np.maximum(1 - np.abs(TINY_SIDE * start + side * (steps + 0.5) - 0.5 - steps[:, None]), 0).T
            for start in (y, x)
        )
        maps = np.kron(down, across)
        yield _units(pictures @ (maps / maps.sum(axis=1, keepdims=True)).astype(np.float32).T)


def _units(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    centred = rows - rows.mean(axis=1, keepdims=True)
    units: npt.NDArray[np.float32] = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    return units


@dataclass(frozen=True)
class Candidate:
    """Two pictures that may be one: `variant` of the first looks like the second."""

    first: int
    second: int
    variant: int
    likeness: float


def find_candidates(
    thumbnails: Pixels,
    places: npt.NDArray[np.int64],
    may_match: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.bool_]],
    count: int,
    flips: bool,
    report: Callable[[int], object],
) -> list[Candidate]:
    """For each picture of `places` the most similar others, at most `count`, each pair once.

    `may_match` says of queries and keys which pairs are asked for, as an array of (queries, keys).
    """
    variants = VARIANTS if flips else len(_WINDOWS)
    best: dict[tuple[int, int], Candidate] = {}
    for start in range(0, len(places), _QUERIES):
        mine = places[start : start + _QUERIES]
        rows = torch.from_numpy(np.concatenate([_coarse_variants(thumbnails[place], variants) for place in mine]))
        likeness, others, turned = _most_similar(rows, thumbnails, places, mine, may_match, count)
        for row, column in zip(*np.nonzero(likeness.numpy() > _LEAST_LIKENESS), strict=True):
            pair = Candidate(
                int(mine[row]),
                int(places[others[row, column]]),
                int(turned[row, column]),
                float(likeness[row, column]),
            )
            key = (min(pair.first, pair.second), max(pair.first, pair.second))
            if key not in best or pair.likeness > best[key].likeness:
                best[key] = pair
        report(len(mine))
    return [best[key] for key in sorted(best)]


def _most_similar(
    rows: torch.Tensor,
    thumbnails: Pixels,
    places: npt.NDArray[np.int64],
    mine: npt.NDArray[np.int64],
    may_match: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.bool_]],
    count: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Likeness, place among `places` and variant of the best keys of each query. Shape of each: (queries, count)."""
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for start in range(0, len(places), _KEYS):
        theirs = places[start : start + _KEYS]
        keys = torch.from_numpy(np.concatenate([_coarse_variants(thumbnails[place], 1) for place in theirs]))
        likeness, variant = (rows @ keys.T).view(len(mine), -1, len(theirs)).max(dim=1)
        likeness[~torch.from_numpy(may_match(mine, theirs))] = -1
        values, columns = likeness.topk(min(count, len(theirs)), dim=1)
        found.append((values, columns + start, variant.gather(1, columns)))
    likeness, others, variant = (torch.cat(each, dim=1) for each in zip(*found, strict=True))
    values, columns = likeness.topk(min(count, likeness.shape[1]), dim=1)
    return values, others.gather(1, columns), variant.gather(1, columns)


def choose_variant(first: Pixels, second: Pixels, flips: bool = True) -> tuple[int, float]:
    """Which variant of one thumbnail is most like another, and how much."""
    likeness = _coarse_variants(first, VARIANTS if flips else len(_WINDOWS)) @ _coarse_variants(second, 1)[0]
    return int(likeness.argmax()), float(likeness.max())


def choose_candidate(thumbnails: Pixels, first: int, second: int, flips: bool) -> Candidate:
    """How two pictures are laid over each other: the one that shows more comes first."""
    both = [
        Candidate(one, other, *choose_variant(thumbnails[one], thumbnails[other], flips))
        for one, other in ((first, second), (second, first))
    ]
    return max(both, key=lambda pair: pair.likeness)


def is_mirrored(variant: int) -> bool:
    """Whether a variant is of the mirror image."""
    return variant >= len(_WINDOWS)


def measure_similarity(
    first: Pixels, second: Pixels, variant: int, first_size: tuple[int, int], second_size: tuple[int, int]
) -> float:
    """How alike two thumbnails are where they are least alike: 1 for the same, about 0 for others, -1 for no overlap.

    The variant is laid over the second picture as it is, and by the map that fits best. Both are compared at the lower
    resolution of the two pictures, whose sizes (width, height) are given.
    """
    side = _WINDOWS[variant % len(_WINDOWS)][2]
    moved = np.ascontiguousarray(first[:, ::-1]) if is_mirrored(variant) else first
    width, height = (int(np.clip(min(pair), 12, 48)) for pair in zip(first_size, second_size, strict=True))
    best = -1.0
    for start in _place(moved, second, side):
        for warp in chain([start], _fit(moved, second, start)):
            best = max(best, _compare_places(moved, second, warp, (width, height)))
            if best > _THRESHOLDS[1]:
                return best
    return best


def _place(moved: Pixels, second: Pixels, side: float) -> Iterator[npt.NDArray[np.float32]]:
    """Where a picture shows a second one, if that is a window of it; then, where both are cut, by how much."""
    cv2 = opencv()
    size, left, top = round(side * SIDE), 0, 0
    if size < SIDE:
        left, top = cv2.minMaxLoc(cv2.matchTemplate(moved, _shrink(second, size, size), cv2.TM_CCOEFF_NORMED))[3]
    yield np.array([[side, 0, left], [0, side, top]], np.float32)
    edge = round(_MOST_SHIFT * SIDE)
    inner = np.ascontiguousarray(second[edge:-edge, edge:-edge])
    _, likeness, _, (left, top) = cv2.minMaxLoc(cv2.matchTemplate(moved, inner, cv2.TM_CCOEFF_NORMED))
    if likeness > _LEAST_LIKENESS and (left, top) != (edge, edge):
        yield np.array([[1, 0, left - edge], [0, 1, top - edge]], np.float32)


def _fit(moved: Pixels, second: Pixels, start: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """The affine map that correlates best; none where it is no cut and resize, as it may be of different pictures."""
    cv2 = opencv()
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(np.float32) for each in (second, moved)]
    try:
        warp: npt.NDArray[np.float32] = cv2.findTransformECC(*grey, start.copy(), cv2.MOTION_AFFINE, stop, None, 5)[1]
    except cv2.error:  # it did not converge
        return
    scales, slants, shifts = warp[[0, 1], [0, 1]], warp[[0, 1], [1, 0]], warp[:, 2] / SIDE
    bounds = ((np.abs(scales - 0.97), 0.14), (np.abs(slants), 0.05), (np.abs(shifts), _MOST_SHIFT))
    if all((values < most).all() for values, most in bounds):
        yield warp


def _compare_places(moved: Pixels, second: Pixels, warp: npt.NDArray[np.float32], size: tuple[int, int]) -> float:
    """Similarity of the least similar place.

    Of each: one less the squared difference over the sum of squares about the mean colour, which of a place with less
    in it is that of the whole.
    """
    cv2 = opencv()
    inverse = cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(np.full((SIDE, SIDE), 255, np.uint8), warp, (SIDE, SIDE), flags=cv2.INTER_NEAREST | inverse)
    moved = cv2.warpAffine(
        moved, warp, (SIDE, SIDE), flags=cv2.INTER_LINEAR | inverse, borderMode=cv2.BORDER_REPLICATE
    )
    a, b = (_shrink(each, *size).astype(np.float32) for each in (moved, second))
    inside = (_shrink(seen, *size) > 250).astype(np.float32)
    if inside.mean() < _LEAST_OVERLAP:
        return -1.0
    mean = (inside[..., None] * (a + b)).sum(axis=(0, 1)) / (2 * inside.sum())
    difference = ((a - b) ** 2).sum(axis=2) * inside
    energy = ((a - mean) ** 2 + (b - mean) ** 2).sum(axis=2) * inside
    shares, differences, energies = (_shrink(each, _PLACES, _PLACES) for each in (inside, difference, energy))
    whole = float(energy.sum() / inside.sum())
    if whole == 0:
        return 1.0
    places = 1 - differences / np.maximum(energies, whole * np.maximum(shares, 1e-6))
    return float(places[shares > 0.3].min())


def make_copies(pixels: Pixels, generator: np.random.Generator) -> list[Pixels]:
    """Copies as they are met: JPEG of quality 40, 90 % of each side, half to twice the size.

    A mirror image is not among them: it is found as surely as the same picture.
    """
    scale = float(np.exp2(generator.uniform(-1, 1)))
    return [_compress(pixels), _crop(pixels, generator), _resize(pixels, scale)]


def _compress(pixels: Pixels) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=40)
    return decode_pixels(stream.getvalue())


def _crop(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    height, width = (max(1, round(0.9 * side)) for side in pixels.shape[:2])
    top, left = (
        int(generator.integers(all_of_it - part + 1))
        for all_of_it, part in zip(pixels.shape, (height, width), strict=False)
    )
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _resize(pixels: Pixels, scale: float) -> Pixels:
    width, height = (max(1, round(scale * side)) for side in pixels.shape[1::-1])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Calibration:
    """From which similarity on two pictures of a set are one.

    Attributes:
        threshold: What is at least this similar is the same.
        recall: Share of copies made of pictures of the set that are.
        copies: How many were made.
    """

    threshold: float
    recall: float
    copies: int


def calibrate(pictures: Iterable[Pixels], seed: int, flips: bool) -> Calibration:
    """Measure how similar copies of some pictures are to them."""
    found = []
    for number, pixels in enumerate(pictures):
        thumbnail = make_thumbnail(pixels)
        for copy in make_copies(pixels, np.random.default_rng((seed, number))):
            other = make_thumbnail(copy)
            variant, _ = choose_variant(thumbnail, other, flips)
            found.append(measure_similarity(thumbnail, other, variant, pixels.shape[1::-1], copy.shape[1::-1]))
    if not found:
        return Calibration(_THRESHOLDS[1], 1.0, 0)
    threshold = float(np.clip(np.quantile(found, _LOST), *_THRESHOLDS))
    return Calibration(threshold, float(np.mean(np.array(found) >= threshold)), len(found))
