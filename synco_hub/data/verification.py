"""A data set against its row of the catalog: images, classes, their order, and whether train and test are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from timm.data import ImageNetInfo  # type: ignore[attr-defined]

from synco_hub.data.catalog.row import DatasetRow, Layout
from synco_hub.data.class_lists import read_class_list
from synco_hub.data.image_dataset import UNLABELED, ImageDataset, PixelArrayDataset
from synco_hub.data.image_folder import ImageFolderDataset
from synco_hub.data.pretraining_images import hash_content, hash_pixels
from synco_hub.data.tables import TableDataset

# Below this two spellings are two names; "cra", as one copy spells the crab, is above it.
_SAME_NAME = 0.6
_NAMED_AT_MOST = 3


@dataclass(frozen=True)
class SplitVerdict:
    """One split, counted.

    Attributes:
        split: `train` or `test`.
        images: Images that are there.
        expected_images: Images of the catalog.
        classes: Classes with at least one image.
        expected_classes: Classes of the catalog.
        problems: What else does not agree, one sentence each.
    """

    split: str
    images: int
    expected_images: int
    classes: int
    expected_classes: int
    problems: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether both counts are those of the catalog and nothing else was found."""
        counted = (self.images, self.classes) == (self.expected_images, self.expected_classes)
        return counted and not self.problems


def verify_dataset(row: DatasetRow, splits: Mapping[str, ImageDataset]) -> dict[str, SplitVerdict]:
    """Counts all splits as they were loaded, and compares them; no image is decoded."""
    verdicts = {split: verify_split(row, images, split) for split, images in splits.items()}
    if not {"train", "test"} <= set(verdicts):
        return verdicts
    notes = []
    if _find_exchanged(verdicts):
        notes.append("it has about as many images as the catalog's other split: train and test look exchanged")
    overlap = measure_overlap(splits["train"], splits["test"])
    if overlap is not None:
        notes.append(overlap)
    return {split: replace(verdict, problems=(*verdict.problems, *notes)) for split, verdict in verdicts.items()}


def verify_split(row: DatasetRow, images: ImageDataset, split: str) -> SplitVerdict:
    """Counts one split; no image is decoded."""
    expected = row.counts[split]
    # A draw from the original archive has every image, also those that a copy on the Hub lacks.
    if row.layout is Layout.draw and isinstance(images, ImageFolderDataset) and row.table_9 is not None:
        expected = row.table_9[split]
    counts = count_images_of_classes(images)
    missing = images.missing_files() if isinstance(images, ImageFolderDataset) else []
    problems = [
        *_absent(missing),
        *_class_sizes(row, counts, split),
        *_names(row, images),
    ]
    return SplitVerdict(
        split, len(images) - len(missing), expected, int((counts > 0).sum()), row.num_classes, tuple(problems)
    )


def count_images_of_classes(images: ImageDataset) -> npt.NDArray[np.int64]:
    """Images of each class; where an image can have several, it counts for each of them. Shape: (num_classes,)."""
    if images.multi_hot is not None:
        return np.asarray((images.multi_hot == 1).sum(axis=0), dtype=np.int64)
    labels = images.labels[images.labels != UNLABELED]
    return np.bincount(labels, minlength=images.num_classes).astype(np.int64)


def _absent(missing: Sequence[str]) -> list[str]:
    if not missing:
        return []
    return [f"{len(missing)} images of the list are not there (first {', '.join(missing[:_NAMED_AT_MOST])})"]


def _class_sizes(row: DatasetRow, counts: npt.NDArray[np.int64], split: str) -> list[str]:
    """Whether every class has a number of images that a class of this set can have."""
    if split not in row.per_class:
        return []
    lowest, highest = row.per_class[split]
    wrong = np.flatnonzero((counts > 0) & ((counts < lowest) | (counts > highest)))
    if not len(wrong):
        return []
    allowed = str(lowest) if lowest == highest else f"{lowest} to {highest}"
    return [f"{len(wrong)} classes have not {allowed} images (class {wrong[0]} has {counts[wrong[0]]})"]


def _names(row: DatasetRow, images: ImageDataset) -> list[str]:
    """Whether classes stand where the catalog has them, as far as both sides name them."""
    stored = getattr(images, "stored_class_names", None) or images.class_names
    known = _known_names(row, stored)
    spelled = {_plain(spelling) for name in known.values() for spelling in (name, *name.split(","))}
    moved, strangers = [], []
    for label, expected in known.items():
        if label >= len(stored) or stored[label].isdecimal():
            continue
        found = {_plain(spelling) for spelling in (stored[label], *stored[label].split(","))}
        wanted = {_plain(spelling) for spelling in (expected, *expected.split(","))}
        if found & wanted:
            continue
        if found & spelled:
            moved.append((label, stored[label], expected))
        elif SequenceMatcher(None, _plain(stored[label]), _plain(expected)).ratio() < _SAME_NAME:
            strangers.append((label, stored[label], expected))
    problems = []
    for wrong, what in ((moved, "in another order"), (strangers, "others")):
        if wrong:
            label, name, expected = wrong[0]
            problems.append(
                f"{len(wrong)} class names are {what} than the catalog's (class {label} is {name!r}, there "
                f"{expected!r})"
            )
    return problems


def _known_names(row: DatasetRow, stored: Sequence[str]) -> dict[int, str]:
    """Names by label, in the kind of names that the data has."""
    if row.class_list is not None:
        wnids = read_class_list(row.class_list)
        # Wnids were looked up in the list, wherever they stand; words are compared with those of WordNet.
        if any(name in wnids for name in stored):
            return {}
        words = ImageNetInfo()
        return {label: str(words.label_name_to_description(wnid)) for label, wnid in enumerate(wnids)}
    if isinstance(row.known_names, str):
        return dict(enumerate(read_class_list(row.known_names))) if row.known_names else {}
    return dict(row.known_names)


def _plain(name: str) -> str:
    """Without case, blanks and marks: copies spell one name in many ways."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _find_exchanged(verdicts: Mapping[str, SplitVerdict]) -> bool:
    train, test = verdicts["train"], verdicts["test"]
    if train.expected_images == test.expected_images:
        return False
    as_expected = abs(train.images - train.expected_images) + abs(test.images - test.expected_images)
    crosswise = abs(train.images - test.expected_images) + abs(test.images - train.expected_images)
    return crosswise < as_expected


# Test images that are looked for, spread over the split, so that the time does not grow with it.
LOOKED_FOR_AT_MOST = 1000
# Published sets have images twice: about a tenth of CIFAR-100's test images have a near-duplicate among the training
# images (Barz and Denzler, "Do We Train on Test Data?", 2020). Only more than that is a mistake of the copy.
PUBLISHED_DUPLICATES = 0.1


def measure_overlap(train: ImageDataset, test: ImageDataset) -> str | None:
    """What is wrong with images of the test split in the training split, in one sentence; None where nothing is.

    No image is decoded. Files of one folder are the same if their names are. Files of two folders are compared where
    their names agree; rows of tables and arrays of pixels by what they hold, for at most `LOOKED_FOR_AT_MOST` test
    images.
    """
    if isinstance(train, ImageFolderDataset) and isinstance(test, ImageFolderDataset):
        if train.root == test.root:
            names = sorted(set(train.names) & set(test.names))
            return f"{len(names)} images are in train and in test (first {names[0]})" if names else None
        return _sentence(test, *_find_files_of_one_name(train, test))
    if isinstance(train, PixelArrayDataset) and isinstance(test, PixelArrayDataset):
        sizes = [np.full(len(images), images.pixels[0].nbytes) for images in (train, test)]
        return _sentence(test, *_same_contents(_hash_pixels(train), _hash_pixels(test), *sizes))
    if isinstance(train, TableDataset) and isinstance(test, TableDataset):
        train_sizes, test_sizes = train.encoded_sizes(), test.encoded_sizes()
        if train_sizes is not None and test_sizes is not None:
            return _sentence(test, *_same_contents(_hash_rows(train), _hash_rows(test), train_sizes, test_sizes))
    return None


def _sentence(test: ImageDataset, found: list[int], looked_for: int) -> str | None:
    if len(found) <= PUBLISHED_DUPLICATES * looked_for:
        return None
    return f"{len(found)} of {looked_for} test images looked for are in train too (first {test.name(found[0])})"


def _spread_over(count: int) -> list[int]:
    """Indices at even distances."""
    return sorted(set(np.linspace(0, count - 1, min(count, LOOKED_FOR_AT_MOST)).astype(int).tolist()))


def _hash_pixels(images: PixelArrayDataset) -> Callable[[int], bytes]:
    return lambda index: hash_pixels(images.pixels[index])


def _hash_rows(images: TableDataset) -> Callable[[int], bytes]:
    return lambda index: hash_content(images.encoded(index))


def _same_contents(
    train: Callable[[int], bytes],
    test: Callable[[int], bytes],
    train_sizes: npt.NDArray[np.int64],
    test_sizes: npt.NDArray[np.int64],
) -> tuple[list[int], int]:
    """Test images with the hash of a training image; only images of one size are read."""
    looked_for = _spread_over(len(test_sizes))
    candidates = np.flatnonzero(np.isin(train_sizes, test_sizes[looked_for])).tolist()
    held = {train(index) for index in candidates}
    return [index for index in looked_for if test(index) in held], len(looked_for)


def _find_files_of_one_name(train: ImageFolderDataset, test: ImageFolderDataset) -> tuple[list[int], int]:
    """Test files with the name, without its folders, and the bytes of a training file."""
    looked_for = _spread_over(len(test))
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
