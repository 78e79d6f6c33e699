"""From a row of the catalog to its images: the Hub copy, or the user's own files."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from synco_hub.data.catalog_folder import load_catalog_folder
from synco_hub.data.catalog_row import DatasetRow, Metric
from synco_hub.data.class_labels import labels_of_list
from synco_hub.data.class_lists import class_list
from synco_hub.data.hub_dataset import HubImageDataset, HubSource, load_hub_dataset
from synco_hub.data.image_dataset import ImageDataset, fingerprint
from synco_hub.data.image_folder import contains_images

TABLE_FILES = ("*.parquet", "*.arrow", "*.tar")

logger = logging.getLogger(__name__)


def load_catalog_dataset(row: DatasetRow, given: HubSource, split: str = "train", seed: int = 0) -> ImageDataset:
    """Opens one split of a catalog set.

    With a `data_dir` the images come from there and nothing reaches the network: parquet, arrow or webdataset files
    with the columns and splits of the Hub copy, or image files (see `load_catalog_folder`).

    Args:
        row: Which set.
        given: What the user chose: `data_dir`, and columns, configuration, revision that replace the row's.
        split: `train` or `test`.
        seed: Draws the training images of a folder that has no official split.

    Returns:
        The images in stored order; the description has the catalog's name and our split.

    Raises:
        ImportError: If a table is asked for and the `datasets` library is not installed.
        ValueError: If the set has no such split or no images of its own, has no copy on the Hub and no `data_dir` is
            given, or what is there is another set.
    """
    if split not in row.splits:
        raise ValueError(f"{row.name} has no split {split!r}; give one of {', '.join(row.splits)}.")
    _require_one_class_an_image(row)
    if given.data_dir is None:
        images: ImageDataset = _from_tables(row, _hub_source(row, given), split)
        if len(images) != row.counts[split]:
            logger.warning(
                "%s (%s): %d images, where the catalog has %d; `synco-hub data verify` tells more.",
                *(row.name, split, len(images), row.counts[split]),
            )
    else:
        images = _from_own_files(row, given, split, seed)
    images.description = replace(images.description, name=row.name, split=split)
    return images


def _require_one_class_an_image(row: DatasetRow) -> None:
    if row.metric is Metric.average_precision:
        raise ValueError(
            f"{row.name} has several classes an image, and image data sets here keep one; sort its images into one "
            "folder per class and give that folder to use it for pretraining."
        )
    if row.dataset_id is None and row.name != "imagenet-c":
        raise ValueError(f"{row.name} has no image files of its own ({row.original_files}). {row.notes}")


def _hub_source(row: DatasetRow, given: HubSource) -> HubSource:
    if row.dataset_id is None or not row.is_table:
        raise ValueError(
            f"{row.name} cannot be read from the Hub; unpack its original files ({row.original_files}) and name the "
            "folder with --data-dir."
        )
    return replace(
        given,
        dataset_id=row.dataset_id,
        config=given.config or row.config,
        revision=given.revision or row.revision,
        image_column=given.image_column or row.image_column,
        label_column=given.label_column or row.label_column,
    )


def _from_own_files(row: DatasetRow, given: HubSource, split: str, seed: int) -> ImageDataset:
    folder = Path(str(given.data_dir)).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data_dir {folder}: no such folder; give the one with the files of {row.name}.")
    if contains_images(folder) or not any(next(folder.rglob(pattern), None) for pattern in TABLE_FILES):
        return load_catalog_folder(row, folder, split, seed)
    source = replace(
        given,
        dataset_id=str(folder),
        data_dir=None,
        # The Hub's names of configuration and commit mean nothing to a folder.
        revision=None,
        image_column=given.image_column or row.image_column,
        label_column=given.label_column or row.label_column,
    )
    return _from_tables(row, source, split)


def _from_tables(row: DatasetRow, source: HubSource, split: str) -> HubImageDataset:
    images = load_hub_dataset(source, "+".join(row.splits[split]))
    if row.class_list is not None:
        wnids = class_list(row.class_list)
        images.labels = labels_of_list(images.labels, images.class_names, wnids, source.dataset_id)
        images.class_names = list(wnids)
        digest = fingerprint(images.description.fingerprint, wnids, images.labels)
        images.description = replace(images.description, num_classes=len(wnids), fingerprint=digest)
    elif images.num_classes != row.num_classes:
        raise ValueError(
            f"{source.dataset_id} ({split}): {images.num_classes} classes, where {row.name} has {row.num_classes}; "
            "check the label column and that it is the copy of this set."
        )
    return images
