"""Revisited Oxford and Paris: database images, queries with their boxes, and which images are positives of which.

Layout: `<root>/roxford5k/gnd_roxford5k.pkl` beside `<root>/roxford5k/jpg/<name>.jpg`, and `rparis6k` likewise. The
ground truth is a pickle: it is read by a restricted unpickler that knows dictionaries, lists and numbers (numpy's
too), and runs nothing that a file names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from synco_hub.safe_pickle import load_arrays

DATASETS = ("roxford5k", "rparis6k")
OFFICIAL_COUNTS = {"roxford5k": (70, 4993), "rparis6k": (70, 6322)}
_GRADES = ("easy", "hard", "junk")

Setup = Literal["easy", "medium", "hard"]
# Which grades of images are positives, and which are taken out of the ranking.
SETUPS: dict[Setup, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


@dataclass(frozen=True)
class RetrievalQuery:
    """One query.

    Attributes:
        file: The image.
        box: Left, top, right, bottom of the building in it, in pixels.
        grades: Positions in the database of the images that show it: `easy`, `hard`, and `junk`.
    """

    file: Path
    box: tuple[float, float, float, float]
    grades: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class RetrievalData:
    """A retrieval benchmark.

    Attributes:
        name: `roxford5k` or `rparis6k`.
        database: Files of the images that are searched.
        queries: What is searched for.
        fingerprint: Hash of the ground truth's file.
    """

    name: str
    database: tuple[Path, ...]
    queries: tuple[RetrievalQuery, ...]
    fingerprint: str

    @property
    def is_official(self) -> bool:
        """Whether there are as many queries and images as in the published benchmark."""
        return OFFICIAL_COUNTS.get(self.name) == (len(self.queries), len(self.database))

    def targets(self, setup: Setup) -> Tensor:
        """Positives, junk and the rest under one of the three setups.

        Returns:
            1 positive, 0 negative, -1 junk, int8. Shape: (queries, database images).
        """
        positive, junk = SETUPS[setup]
        targets = torch.zeros(len(self.queries), len(self.database), dtype=torch.int8)
        for row, query in zip(targets, self.queries, strict=True):
            for grades, value in ((junk, -1), (positive, 1)):
                for grade in grades:
                    row[list(query.grades[grade])] = value
        return targets


def load_retrieval_data(root: Path, name: str) -> RetrievalData:
    """Read the ground truth and check that every image is there."""
    if name not in DATASETS:
        raise ValueError(f"dataset {name!r} is no revisited retrieval benchmark: use one of {', '.join(DATASETS)}")
    ground_truth = f"gnd_{name}.pkl"
    folder = next((each for each in (root / name, root) if (each / ground_truth).is_file()), None)
    if folder is None:
        raise FileNotFoundError(
            f"{str(root / name / ground_truth)!r} does not exist: --data-dir is the folder that holds "
            f"{name}/{ground_truth} and {name}/jpg/"
        )
    file = folder / ground_truth
    data = file.read_bytes()
    plain = load_arrays(data, repr(str(file)), "Fetch the benchmark's own file again.")
    try:
        database = tuple(folder / "jpg" / f"{_check_plain_name(image)}.jpg" for image in plain["imlist"])
        names = [_check_plain_name(image) for image in plain["qimlist"]]
        queries = tuple(
            _query(folder / "jpg" / f"{query}.jpg", entry, len(database))
            for query, entry in zip(names, plain["gnd"], strict=True)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(file)!r} is not in the layout of the benchmark ({type(error).__name__}: {error}): it is a "
            "dictionary of imlist, qimlist and gnd, whose entries hold bbx, easy, hard and junk"
        ) from None
    _check_images([*database, *(query.file for query in queries)], folder)
    return RetrievalData(name, database, queries, hashlib.sha256(data).hexdigest()[:16])


def _query(file: Path, entry: Mapping[str, Any], database_size: int) -> RetrievalQuery:
    left, top, right, bottom = (float(side) for side in entry["bbx"])
    if not (left < right and top < bottom):
        raise ValueError(f"the box {list(entry['bbx'])} of {file.name} has no area")
    grades = {grade: tuple(int(index) for index in entry[grade]) for grade in _GRADES}
    for grade, indices in grades.items():
        if indices and not 0 <= min(indices) <= max(indices) < database_size:
            raise ValueError(f"{grade} of {file.name} names image {max(indices)} of {database_size}")
    return RetrievalQuery(file, (left, top, right, bottom), grades)


def _check_plain_name(name: Any) -> str:
    """A file's name without its ending; it may not lead out of the folder."""
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ValueError(f"{name!r} is no name of an image")
    return name.removesuffix(".jpg")


def _check_images(files: Sequence[Path], folder: Path) -> None:
    missing = sorted({file.name for file in files if not file.is_file()})
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(set(files))} images are missing in {str(folder / 'jpg')!r}, first "
            f"{', '.join(missing[:5])}: unpack the benchmark's archives there, without subfolders"
        )
