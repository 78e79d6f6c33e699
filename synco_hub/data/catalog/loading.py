"""From a row of the catalog to its images: the Hub copy, or the user's own files."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from synco_hub.data.catalog.folder import load_catalog_folder
from synco_hub.data.catalog.row import DatasetRow
from synco_hub.data.catalog.rows import CATALOG
from synco_hub.data.class_labels import labels_of_list
from synco_hub.data.class_lists import class_list
from synco_hub.data.corruptions import WatermarkedImages
from synco_hub.data.hub_dataset import HubImageDataset, load_hub_dataset
from synco_hub.data.hub_source import HubSource, split_names
from synco_hub.data.image_dataset import ImageDataset, fingerprint
from synco_hub.data.image_folder import contains_images
from synco_hub.data.image_subset import listed_subset
from synco_hub.data.low_shot_lists import low_shot_list
from synco_hub.data.shard_manifest import MANIFEST, require_complete

TABLE_FILES = ("*.parquet", "*.arrow", "*.tar")
LISTED_PERCENT = {"imagenet-1pct": 1, "imagenet-10pct": 10}

logger = logging.getLogger(__name__)


def load_catalog_dataset(row: DatasetRow, given: HubSource, split: str = "train", seed: int = 0) -> ImageDataset:
    """Opens one split of a catalog set.

    With a `data_dir` the images come from there and nothing reaches the network: parquet, arrow or webdataset files
    with the columns and splits of the Hub copy, what `synco-hub data prepare` wrote, or image files (see
    `load_catalog_folder`).

    Args:
        row: Which set.
        given: What the user chose: `data_dir`, and columns, configuration, revision that replace the row's. Its
            `dataset_id` is another copy on the Hub, or the row's name for the row's own. Its `max_images` bounds what
            is read of tables; image files are all there.
        split: `train` or `test`.
        seed: Draws the training images of a folder that has no official split.

    Returns:
        The images in stored order; the description has the catalog's name and our split.

    Raises:
        ImportError: If a table is asked for and the `datasets` library is not installed, or a watermark and the
            package that draws it is not.
        ValueError: If the set has no such split, has no copy on the Hub and no `data_dir` is given, or what is there
            is another set.
    """
    if split not in row.splits:
        raise ValueError(f"{row.name} has no split {split!r}; give one of {', '.join(row.splits)}.")
    if row.base is not None:
        images = _of_base(row, given, split, seed)
    elif given.data_dir is None:
        images = _from_tables(row, _hub_source(row, given), split)
        if given.max_images is None and len(images) != row.counts[split]:
            logger.warning(
                "%s (%s): %d images, where the catalog has %d; `synco-hub data verify` tells more.",
                *(row.name, split, len(images), row.counts[split]),
            )
    else:
        images = _from_own_files(row, given, split, seed)
    images.description = replace(images.description, name=row.name, split=split)
    return images


def _of_base(row: DatasetRow, given: HubSource, split: str, seed: int) -> ImageDataset:
    """A set without images of its own: the low-shot lists, and the watermark."""
    base = CATALOG[str(row.base)]
    if row.name in LISTED_PERCENT and split == "train":
        given = replace(given, max_images=None)  # the list names images of the whole set
    images = load_catalog_dataset(base, replace(given, dataset_id=_other_copy(row, given) or base.name), split, seed)
    if row.name in LISTED_PERCENT:
        percent = LISTED_PERCENT[row.name]
        return listed_subset(images, low_shot_list(percent, given.cache_dir)) if split == "train" else images
    return WatermarkedImages(images)


def _other_copy(row: DatasetRow, given: HubSource) -> str | None:
    return None if given.dataset_id == row.name else given.dataset_id


def _hub_source(row: DatasetRow, given: HubSource) -> HubSource:
    copy = _other_copy(row, given)
    if copy is None and (row.dataset_id is None or not row.is_table):
        raise ValueError(
            f"{row.name} cannot be read from the Hub; unpack its original files ({row.original_files}) and name the "
            "folder with --data-dir."
        )
    return replace(
        given,
        dataset_id=copy or str(row.dataset_id),
        # The row's configuration and commit mean nothing to another copy.
        config=given.config or (None if copy else row.config),
        revision=given.revision or (None if copy else row.revision),
        image_column=given.image_column or row.image_column,
        label_column=given.label_column or row.label_column,
        optional_columns=copy is not None and given.image_column is None and given.label_column is None,
        num_classes=row.num_classes,
    )


def _from_own_files(row: DatasetRow, given: HubSource, split: str, seed: int) -> ImageDataset:
    folder = Path(str(given.data_dir)).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data_dir {folder}: no such folder; give the one with the files of {row.name}.")
    require_complete(folder)
    if contains_images(folder) or not any(next(folder.rglob(pattern), None) for pattern in TABLE_FILES):
        return load_catalog_folder(row, folder, split, seed)
    prepared = (folder / MANIFEST).is_file()
    source = replace(
        given,
        dataset_id=str(folder),
        data_dir=None,
        # The Hub's names of configuration and commit mean nothing to a folder.
        revision=None,
        image_column=given.image_column or (None if prepared else row.image_column),
        label_column=given.label_column or (None if prepared else row.label_column),
        num_classes=row.num_classes,
    )
    return _from_tables(row, source, split, prepared)


def _stored_split(row: DatasetRow, source: HubSource, split: str, prepared: bool) -> str:
    """The row's stored splits where the table has them, else our own name of the split."""
    stored = row.splits[split]
    if prepared:
        return split
    if source.dataset_id == row.dataset_id or set(stored) <= set(split_names(source)):
        return "+".join(stored)
    return split


def _from_tables(row: DatasetRow, source: HubSource, split: str, prepared: bool = False) -> HubImageDataset:
    images = load_hub_dataset(source, _stored_split(row, source, split, prepared))
    if source.max_images is not None and images.names_from_rows and len(images.class_names) < row.num_classes:
        _name_unread_classes(row, images)
    if row.class_list is not None:
        wnids = class_list(row.class_list)
        images.stored_class_names = list(images.class_names)
        images.labels = labels_of_list(images.labels, images.class_names, wnids, source.dataset_id)
        images.class_names = list(wnids)
        digest = fingerprint(images.description.fingerprint, wnids, images.labels)
        images.description = replace(images.description, num_classes=len(wnids), fingerprint=digest)
    elif images.num_classes != row.num_classes:
        raise ValueError(
            f"{source.dataset_id} ({split}): {images.num_classes} classes, where {row.name} has {row.num_classes}; "
            "check the label column and that it is the copy of this set."
        )
    elif isinstance(row.known_names, str) and row.known_names and all(map(str.isdecimal, images.class_names)):
        images.class_names = list(class_list(row.known_names))
    return images


def _name_unread_classes(row: DatasetRow, images: HubImageDataset) -> None:
    """Where classes are bare numbers, some rows need not reach the highest."""
    if all(map(str.isdecimal, images.class_names)):
        images.class_names = [str(number) for number in range(row.num_classes)]
        images.description = replace(images.description, num_classes=row.num_classes)
