"""Plants copies among the pictures of a folder and counts which of them `data duplicates` finds.

    python tests/benchmarks/benchmark_duplicates.py FOLDER --copies 300

Copies are made by Pillow: JPEG of quality 40, 90 % of each side, a mirror image, half to twice the size, and all of
these at once (harder than what the goal is of), in turns. What the folder holds twice by itself is found first,
listed, and left out but for one; so are flat pictures and families of look-alikes, from which no copy is made. Every
pair of files of a group counts: right is a copy with its source, or with another copy of it. The same without leaving
anything out stands beside it: there what was found to be the source's twin is right, too. Writes
tests/benchmarks/results/duplicates_cpu.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from interleaved import RESULTS, Finding, write_report
from PIL import Image, ImageOps

from synco_hub.data import ImageDataset, decode_rgb, load_dataset
from synco_hub.data.duplicates import Duplicates, find_duplicates
from synco_hub.settings import DatasetChoice

# The goal is of the first four; the last is harder.
KINDS = ("jpeg 40", "crop 90 %", "mirrored", "resized", "all of these")


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


def _pairs(found: Duplicates) -> set[tuple[str, str]]:
    return {
        tuple(sorted(found.names[member] for member in pair))  # type: ignore[misc]
        for group in found.groups
        for pair in combinations(group.members, 2)
    }


def plant(folder: Path, files: Mapping[str, Path], sources: list[str], seed: int) -> dict[tuple[str, str], str]:
    """Fill a folder with links to files and copies of some of them; the kind of each pair of copy and source."""
    generator, planted = np.random.default_rng(seed), {}
    for name, file in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(file, folder / name)
    (folder / "planted").mkdir()
    for number, source in enumerate(sources):
        kind = KINDS[number % len(KINDS)]
        copy = write_copy(files[source], kind, folder / "planted" / f"{number:05d}", generator)
        planted[tuple(sorted((source, str(copy.relative_to(folder)))))] = kind
    return planted  # type: ignore[return-value]


def judge(pairs: set[tuple[str, str]], planted: Mapping[tuple[str, str], str], twins: set[tuple[str, str]]) -> Any:
    """Recall of the first four kinds, recall of each kind, precision of pairs with a copy, and the wrong pairs."""
    source = {copy: other for pair in planted for copy, other in (pair, pair[::-1]) if copy.startswith("planted/")}

    def is_right(pair: tuple[str, str]) -> bool:
        one, other = (source.get(name, name) for name in pair)
        return one == other or tuple(sorted((one, other))) in twins

    with_copy = [pair for pair in pairs if any(name in source for name in pair)]
    wrong = sorted(pair for pair in with_copy if not is_right(pair))
    hits = {kind: [pair in pairs for pair, its in planted.items() if its == kind] for kind in KINDS}
    recalls = {kind: float(np.mean(values)) for kind, values in hits.items() if values}
    recall = float(np.mean([value for kind in KINDS[:-1] for value in hits[kind]]))
    return recall, recalls, 1 - len(wrong) / max(len(with_copy), 1), wrong


def main() -> None:
    """Measure, write the JSON whole, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "duplicates_cpu.json")
    options = parser.parse_args()
    root = options.folder.resolve()
    images = _open(root)
    files = {name: root / name for name in images.file_names()}
    natural = find_duplicates(images, num_workers=options.num_workers)
    doubled = {natural.names[member] for group in natural.groups for member in group.members[1:]}
    apart = {natural.names[member] for family in natural.families for member in family}
    flat = {natural.names[member] for member in natural.flat}
    left = {name: file for name, file in files.items() if name not in doubled | apart | flat}
    shuffled = np.random.default_rng(options.seed).permutation(sorted(left)).tolist()
    sources = shuffled[: options.copies]
    rows, findings = [], []
    for what, held, twins in (("twins left out", left, set()), ("all pictures", files, _pairs(natural))):
        with tempfile.TemporaryDirectory() as folder:
            planted = plant(Path(folder), held, sources, options.seed)
            images = _open(Path(folder))
            start, busy = time.perf_counter(), time.process_time()
            found = find_duplicates(images, num_workers=options.num_workers)
            wall, busy = time.perf_counter() - start, time.process_time() - busy
        recall, recalls, precision, wrong = judge(_pairs(found), planted, twins)
        findings += [
            Finding(f"{what}: recall of the first four kinds", recall, "", "≥ 0.95"),
            *(Finding(f"{what}: recall, {kind}", value, "") for kind, value in recalls.items()),
            Finding(f"{what}: precision of pairs with a copy", precision, "", "≥ 0.99"),
            Finding(
                f"{what}: wall clock of 10,000 pictures at the rate of {len(images):,}", wall * 1e4 / len(images), "s"
            ),
            Finding(f"{what}: processor time of the same", busy * 1e4 / len(images), "s"),
        ]
        rows.append(
            {
                "what": what,
                "images": len(images),
                "threshold": found.calibration.threshold,
                "wrong": wrong,
                "missed": sorted(planted.keys() - _pairs(found)),
            }
        )
    settings = {
        "pictures": len(files),
        "copies": len(sources),
        "groups_by_themselves": len(natural.groups),
        "flat": len(flat),
        "in_families": len(apart),
        "seed": options.seed,
        "load_average": round(os.getloadavg()[0], 1),
    }
    write_report(options.output, "Duplicates in a data set", settings, rows, findings, "cpu")


if __name__ == "__main__":
    main()
