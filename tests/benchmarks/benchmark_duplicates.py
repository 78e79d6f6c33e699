"""Plants copies among the pictures of a folder and counts which of them `data duplicates` finds.

    python tests/benchmarks/benchmark_duplicates.py FOLDER --pictures 10000 --copies 1000

Copies are made by Pillow: JPEG of quality 40, 90 % of each side, a mirror image, half to twice the size, in turns; and
beside them a quarter as many of all of these at once, harder than what the goal is of. Every pair of files of a group
counts that has a copy in it: right is a copy with its source.

What the folder holds twice by itself is left out first, but for one, and listed. It is found without the code that is
measured: Pillow's thumbnails of 8, 16 and 32 pixels a side, of the whole picture and of what lies within its margin,
plain and mirrored (letters b and d are mirror images), each with each; twins correlate at all three sizes. Pictures
without texture and drawn fractals, which look alike by their kind, are measured apart. Writes
tests/benchmarks/results/duplicates_cpu.json.

The pictures measured: of Debian 12 the packages openclipart-png (without shapes/stars, 1,300 stars drawn by a
program), tuxpaint-stamps-default, tuxpaint-data, scratch, lincity-ng-data, supertuxkart-data, endless-sky-data,
stellarium-data, megaglest-data, gnome-backgrounds, mate-backgrounds and plasma-workspace-wallpapers, each unpacked by
`dpkg-deb -x` into one folder, without files above 12 million pixels; and the images of the Python packages
scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import RESULTS, Finding, write_report
from PIL import Image, ImageChops, ImageOps

from synco_hub.data import ImageDataset, UnreadableImageError, decode_rgb, load_dataset
from synco_hub.data.duplicates import Duplicates, find_duplicates
from synco_hub.settings import DatasetChoice

# The goal is of the first four; the last is harder.
KINDS = ("jpeg 40", "crop 90 %", "mirrored", "resized", "all of these")
# Least correlation of twins by the side of their thumbnails, and deviation of brightness of pictures with texture.
TWINS = {8: 0.98, 16: 0.96, 32: 0.93}
LEAST_TEXTURE = 2.0
LISTED = 60
Pairs = set[tuple[str, str]]


def _cut(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    width, height = (max(1, round(0.9 * side)) for side in picture.size)
    left = int(generator.integers(picture.width - width + 1))
    top = int(generator.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _scale(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    factor = float(np.exp2(generator.uniform(-1, 1)))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def write_copy(source: Path, kind: str, place: Path, generator: np.random.Generator) -> Path:
    """Write one copy of a picture below a folder."""
    picture = decode_rgb(source)
    if kind in ("crop 90 %", "all of these"):
        picture = _cut(picture, generator)
    if kind in ("mirrored", "all of these"):
        picture = ImageOps.mirror(picture)
    if kind in ("resized", "all of these"):
        picture = _scale(picture, generator)
    lossy = kind in ("jpeg 40", "all of these")
    file = place.with_suffix(".jpg" if lossy else ".png")
    picture.save(file, **({"quality": 40} if lossy else {}))
    return file


def _open(folder: Path) -> ImageDataset:
    return load_dataset(DatasetChoice(str(folder)), "all")


def _pairs(found: Duplicates) -> Pairs:
    return {
        tuple(sorted(found.names[member] for member in pair))  # type: ignore[misc]
        for group in found.groups
        for pair in combinations(group.members, 2)
    }


def _describe(file: Path) -> list[np.ndarray[Any, Any]] | None:
    """For each side of `TWINS` thumbnails of the whole and of what lies within the margin; None if unreadable."""
    try:
        picture = decode_rgb(file)
    except UnreadableImageError:
        return None
    picture.thumbnail((512, 512), Image.Resampling.BOX)
    margin = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    box = ImageChops.difference(picture, margin).convert("L").point(lambda level: 255 * (level > 8)).getbbox()
    both = [picture, picture.crop(box) if box else picture]
    return [np.stack([np.asarray(each.resize((side, side), Image.Resampling.BOX)) for each in both]) for side in TWINS]


def _is_flat(thumbnail: np.ndarray[Any, Any]) -> bool:
    """Whether brightness is a plane but for noise."""
    levels = thumbnail.mean(axis=2).reshape(-1)
    y, x = np.mgrid[: len(thumbnail), : len(thumbnail)].reshape(2, -1)
    plane = np.stack([np.ones_like(x), x, y], axis=1)
    return bool(np.std(levels - plane @ np.linalg.lstsq(plane, levels)[0]) < LEAST_TEXTURE)


def _units(pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    rows = pictures.reshape(len(pictures), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def find_twins(described: Sequence[Sequence[np.ndarray[Any, Any]]], block: int = 512) -> list[list[int]]:
    """Groups of pictures that a chain of twins links, each with each compared by thumbnails of Pillow."""
    parent = list(range(len(described)))

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    for part in (0, 1):
        sides = [np.stack([each[number][part] for each in described]) for number in range(len(TWINS))]
        keys = [_units(pictures) for pictures in sides]
        for turned in (False, True):
            queries = [_units(pictures[:, :, ::-1]) for pictures in sides] if turned else keys
            for start in range(0, len(described), block):
                alike = np.ones((min(block, len(described) - start), len(described)), dtype=bool)
                for least, mine, rows in zip(TWINS.values(), queries, keys, strict=True):
                    if alike.any():
                        alike &= mine[start : start + block] @ rows.T >= least
                for one, other in zip(*np.nonzero(alike), strict=True):
                    parent[root(int(other))] = root(int(one) + start)
    groups: dict[int, list[int]] = {}
    for place in range(len(described)):
        groups.setdefault(root(place), []).append(place)
    return [members for members in groups.values() if len(members) > 1]


def plant(
    folder: Path, files: Mapping[str, Path], sources: Mapping[str, str], seed: int
) -> dict[tuple[str, str], str]:
    """Fill a folder with links to files and a copy of each source; the kind of each pair of copy and source."""
    generator, planted = np.random.default_rng(seed), {}
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(file, folder / name)
    (folder / "planted").mkdir()
    for number, (source, kind) in enumerate(sources.items()):
        copy = write_copy(files[source], kind, folder / "planted" / f"{number:05d}", generator)
        planted[tuple(sorted((source, str(copy.relative_to(folder)))))] = kind
    return planted  # type: ignore[return-value]


def judge(pairs: Pairs, planted: Mapping[tuple[str, str], str]) -> tuple[dict[str, float], float, list[Any]]:
    """Recall of each kind, precision of pairs with a copy, and the wrong pairs."""
    source = {copy: other for pair in planted for copy, other in (pair, pair[::-1]) if copy.startswith("planted/")}
    with_copy = [pair for pair in pairs if any(name in source for name in pair)]
    wrong = sorted(pair for pair in with_copy if len({source.get(name, name) for name in pair}) > 1)
    hits = {kind: [pair in pairs for pair, its in planted.items() if its == kind] for kind in KINDS}
    recalls = {kind: float(np.mean(values)) for kind, values in hits.items() if values}
    return recalls, 1 - len(wrong) / max(len(with_copy), 1), wrong


def _choose_kinds(names: Sequence[str], copies: int) -> dict[str, str]:
    """The first four kinds in turns, then a quarter as many of the last."""
    kinds = [KINDS[number % (len(KINDS) - 1)] for number in range(copies)] + [KINDS[-1]] * (copies // 4)
    return dict(zip(names, kinds, strict=False))


def measure(
    what: str, files: Mapping[str, Path], sources: Mapping[str, str], options: argparse.Namespace, goal: bool = False
) -> tuple[list[Finding], dict[str, Any]]:
    """Plant, find and judge."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        planted = plant(Path(folder), files, sources, options.seed)
        images = _open(Path(folder))
        start, busy = time.perf_counter(), time.process_time()
        found = find_duplicates(images, num_workers=options.num_workers)
        wall, busy = time.perf_counter() - start, time.process_time() - busy
    recalls, precision, wrong = judge(_pairs(found), planted)
    four = float(np.mean([pair in _pairs(found) for pair, kind in planted.items() if kind != KINDS[-1]]))
    findings = [
        Finding(f"{what}: recall of the first four kinds", four, "", "≥ 0.95" if goal else ""),
        *(Finding(f"{what}: recall, {kind}", value, "") for kind, value in recalls.items()),
        Finding(f"{what}: precision of pairs with a copy", precision, "", "≥ 0.99" if goal else ""),
        Finding(f"{what}: wall clock at the rate of 10,000 pictures", wall * 1e4 / len(images), "s"),
        Finding(f"{what}: processor time of the same", busy * 1e4 / len(images), "s"),
    ]
    row = {
        "what": what,
        "images": len(images),
        "flat": len(found.flat),
        "families": len(found.families),
        "threshold": found.calibration.threshold,
        "wrong": len(wrong),
        "first_wrong": wrong[:LISTED],
        "first_missed": sorted(planted.keys() - _pairs(found))[:LISTED],
    }
    return findings, row


def _draw_fractals(folder: Path, count: int) -> dict[str, Path]:
    images = load_dataset(DatasetChoice("fractals"), "train")
    for number in range(count):
        images.load_image(number).save(folder / f"{number:05d}.png")
    return {file.name: file for file in sorted(folder.iterdir())}


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--copies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="folder for the copies")
    parser.add_argument("--output", type=Path, default=RESULTS / "duplicates_cpu.json")
    options = parser.parse_args()
    root = options.folder.resolve()
    files = {name: root / name for name in _open(root).file_names()}
    with ThreadPoolExecutor(options.num_workers) as threads:
        described = dict(zip(files, threads.map(_describe, files.values()), strict=True))
    readable = {name: thumbnails for name, thumbnails in described.items() if thumbnails is not None}
    flat = [name for name, thumbnails in readable.items() if _is_flat(thumbnails[1][0])]
    textured = [name for name in readable if name not in set(flat)]
    twins = [[textured[place] for place in group] for group in find_twins([readable[name] for name in textured])]
    doubled = {name for group in twins for name in group[1:]}
    shuffled = np.random.default_rng(options.seed).permutation([name for name in textured if name not in doubled])
    chosen = shuffled[: options.pictures].tolist()
    sources = _choose_kinds(chosen, options.copies)
    findings, row = measure("pictures", {name: files[name] for name in sorted(chosen)}, sources, options, goal=True)
    rows = [row]
    if flat:
        found, row = measure("flat pictures", {n: files[n] for n in flat}, _choose_kinds(flat, len(flat)), options)
        findings, rows = findings + found, [*rows, row]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        drawn = _draw_fractals(Path(folder), options.copies)
        found, row = measure("fractals", drawn, _choose_kinds(list(drawn), options.copies // 10), options)
        findings, rows = findings + found, [*rows, row]
    settings = {
        "files": len(files),
        "unreadable": len(files) - len(readable),
        "groups_of_twins": len(twins),
        "left_out_as_twins": len(doubled),
        "flat": len(flat),
        "pictures": len(chosen),
        "copies": len(sources),
        "seed": options.seed,
        "load_average": round(os.getloadavg()[0], 1),
    }
    rows.append({"what": "twins left out first", "first_groups": twins[:LISTED]})
    write_report(options.output, "Duplicates in a data set", settings, rows, findings, "cpu")


if __name__ == "__main__":
    main()
