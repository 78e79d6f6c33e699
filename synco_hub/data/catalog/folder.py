"""Original files of a catalog set from a folder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from synco_hub.data.catalog.robustness import BENCHMARK_CORRUPTIONS
from synco_hub.data.catalog.row import DatasetRow, Layout, Metric
from synco_hub.data.class_labels import labels_of_list
from synco_hub.data.class_lists import class_list
from synco_hub.data.file_listing import image_files, subfolders
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.image_folder import TEST_FOLDERS, TRAIN_FOLDER, ImageFolderDataset, load_image_folder
from synco_hub.data.original import LayoutNotFoundError, read_original

logger = logging.getLogger(__name__)

HOLD_OUT_CORRUPTIONS = frozenset({"speckle_noise", "gaussian_blur", "spatter", "saturate"})
DRAWN_TRAIN_IMAGES = 30


def load_catalog_folder(row: DatasetRow, folder: Path, split: str, seed: int = 0) -> ImageDataset:
    """Reads one split of a catalog set from the user's files.

    Args:
        row: Which set.
        folder: As the set's archives unpack, or `train/<class>/` beside `test/<class>/`.
        split: `train` or `test`.
        seed: Draws the training images where there is no official split.

    Returns:
        The images in sorted order, or in that of the set's own lists; labels follow the set's class list where it has
        one.

    Raises:
        ValueError: If the folder has another layout, or classes that the set does not have.
    """
    if row.layout is Layout.class_folders:
        images = _all_class_folders(row, folder, split)
    elif _has_split_folders(folder) and row.metric is not Metric.average_precision:
        images = load_image_folder(folder, split)
    elif row.layout is Layout.lists:
        return _listed(row, folder, split)
    elif row.layout is Layout.draw:
        images = _drawn(row, folder, split, seed)
    else:
        raise ValueError(
            f"{folder}: {row.name} is read from a folder with {TRAIN_FOLDER}/<class>/ beside test/<class>/ or "
            f"val/<class>/, or from parquet files ({row.original_files})."
        )
    if row.class_list is None:
        return images
    return _in_list(row, images, class_list(row.class_list))


def _has_split_folders(folder: Path) -> bool:
    names = subfolders(folder)
    return TRAIN_FOLDER in names and any(name in names for name in TEST_FOLDERS)


def _listed(row: DatasetRow, folder: Path, split: str) -> ImageDataset:
    """As the lists of the set's authors say."""
    try:
        return read_original(row.name, folder, split)
    except LayoutNotFoundError as error:
        raise ValueError(
            f"{error} {row.name} is read as its archives unpack ({row.original_files}), from {TRAIN_FOLDER}/<class>/ "
            "beside test/<class>/, or from parquet files."
        ) from error


def _all_class_folders(row: DatasetRow, folder: Path, split: str) -> ImageFolderDataset:
    """Every image, at any depth; its class is the folder that it lies in."""
    if split != "test":
        raise ValueError(f"{row.name} has no split {split!r}: all its images are test images.")
    names = [name for name in image_files(folder) if "/" in name]
    if row.name == "imagenet-c":
        kept = [name for name in names if HOLD_OUT_CORRUPTIONS.isdisjoint(name.split("/"))]
        if len(kept) < len(names):
            logger.info("%s: %d images of the hold-out corruptions are left out.", folder, len(names) - len(kept))
        names = kept
    if not names:
        raise ValueError(
            f"{folder}: no image in a class folder was found; {row.name} unpacks as {row.original_files}."
        )
    class_names = sorted({name.rsplit("/", 2)[-2] for name in names})
    rule = "all images are the test split"
    if row.name == "imagenet-c":
        present = {part for name in names for part in name.split("/")[:-2]} & set(BENCHMARK_CORRUPTIONS)
        rule += f" ({len(present)} corruptions)" if present else " (one folder of it)"
    return _folder_dataset(row, folder, names, class_names, split, rule)


def _drawn(row: DatasetRow, folder: Path, split: str, seed: int) -> ImageFolderDataset:
    """A fixed number of training images per class, chosen by a hash of seed and name; the rest is for the test."""
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} of {row.name}: it has the splits train and test; give one of them.")
    names = [name for name in image_files(folder) if "/" in name]
    if not names:
        raise ValueError(
            f"{folder}: no image in a class folder was found; {row.name} unpacks as {row.original_files}."
        )
    of_class: dict[str, list[str]] = {}
    for name in names:
        of_class.setdefault(name.rsplit("/", 2)[-2], []).append(name)
    small = [name for name, files in of_class.items() if len(files) <= DRAWN_TRAIN_IMAGES]
    if small:
        raise ValueError(
            f"{folder}: {len(small)} classes ({', '.join(small[:3])}) have no more than {DRAWN_TRAIN_IMAGES} images, "
            f"so the draw leaves none for the test; {row.name} unpacks as {row.original_files}."
        )
    train = {name for files in of_class.values() for name in _first_by_hash(files, seed)}
    chosen = [name for name in names if (name in train) == (split == "train")]
    rule = f"{DRAWN_TRAIN_IMAGES} training images per class drawn by seed {seed}, the rest for the test"
    return _folder_dataset(row, folder, chosen, sorted(of_class), split, rule)


def _first_by_hash(files: Sequence[str], seed: int) -> list[str]:
    # The last two parts only: the draw must not depend on which folder above was given.
    digests = {
        name: hashlib.blake2b(f"{seed}/{'/'.join(name.split('/')[-2:])}".encode("utf-8", "surrogateescape")).digest()
        for name in files
    }
    return sorted(files, key=digests.__getitem__)[:DRAWN_TRAIN_IMAGES]


def _folder_dataset(
    row: DatasetRow, folder: Path, names: Sequence[str], class_names: Sequence[str], split: str, rule: str
) -> ImageFolderDataset:
    index = {name: number for number, name in enumerate(class_names)}
    labels = [index[name.rsplit("/", 2)[-2]] for name in names]
    return ImageFolderDataset(folder, names, labels, class_names, split, rule)


def _in_list(row: DatasetRow, images: ImageFolderDataset, wnids: Sequence[str]) -> ImageFolderDataset:
    """Labels in the order of the list; for ImageNet-100 its classes are first taken out of those of ImageNet."""
    names, labels, class_names = list(images.names), images.labels, images.class_names
    rule = images.description.split_rule
    thousand = class_list("imagenet_1k")
    others = set(class_names) - set(wnids)
    if row.name == "imagenet-100" and others and others <= set(thousand) and others != set(class_names):
        wanted = np.isin(class_names, wnids)
        kept = wanted[labels]
        names = [name for name, is_kept in zip(names, kept, strict=True) if is_kept]
        labels = (np.cumsum(wanted) - 1)[labels[kept]]
        rule += f", {int(wanted.sum())} of {len(class_names)} classes"
        class_names = [name for name in class_names if name in set(wnids)]
    translated = labels_of_list(labels, class_names, wnids, str(images.root))
    return ImageFolderDataset(images.root, names, translated.tolist(), wnids, images.description.split, rule)
