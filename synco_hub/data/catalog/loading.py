"""From a row of the catalog to its images: the Hub copy, or the user's own files."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from synco_hub.data.catalog.row import DatasetRow, Layout, Metric
from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS, CATALOG, HOLD_OUT_CORRUPTIONS
from synco_hub.data.class_labels import map_labels_to_list, renumber
from synco_hub.data.class_lists import read_class_list
from synco_hub.data.corruptions import SEVERITIES, WatermarkedImages
from synco_hub.data.folder_files import list_image_files, list_subfolders
from synco_hub.data.folder_splits import SplitKind, list_split_folders
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.image_folder import ImageFolderDataset, load_image_folder
from synco_hub.data.original import READERS, LayoutNotFoundError, read_original
from synco_hub.data.preparation import MANIFEST, require_complete
from synco_hub.data.subsets import read_low_shot_list, take_classes, take_listed_subset
from synco_hub.data.table_source import TableSource, has_tables, split_names
from synco_hub.data.tables import TableDataset, load_table

logger = logging.getLogger(__name__)

DRAWN_TRAIN_IMAGES = 30
LoadedImages = TypeVar("LoadedImages", bound=ImageDataset)
LISTED_PERCENT = {"imagenet-1pct": 1, "imagenet-10pct": 10}


def load_catalog_dataset(row: DatasetRow, given: TableSource, split: str = "train") -> ImageDataset:
    """Opens one split of a catalog set; the description has the catalog's name and our split.

    With a `data_dir` the images come from there and nothing reaches the network: parquet, arrow or webdataset files
    with the splits of the Hub copy, what `synco-hub data prepare` wrote, or image files (see `load_catalog_folder`):
    in that folder, or in one of the set's own name in it (see `DatasetRow.folders`). Of ImageNet-C the configuration
    `<corruption>/<severity>` reads one folder alone. `max_images` bounds what is read of tables.
    """
    if split not in row.splits:
        raise ValueError(f"{row.name} has no split {split!r}; give one of {', '.join(row.splits)}.")
    if row.base is not None:
        images = _load_from_base(row, given, split)
    elif given.data_dir is None:
        images = _from_tables(row, choose_row_table(row, given), split)
        if given.max_images is None and len(images) != row.counts[split]:
            logger.warning(
                "%s (%s): %d images, where the catalog has %d; `synco-hub data verify` tells more.",
                *(row.name, split, len(images), row.counts[split]),
            )
    else:
        images = _from_own_files(row, given, split)
    images.description = replace(images.description, name=row.name, split=split)
    return images


def load_known_images(data_dir: str | os.PathLike[str]) -> ImageDataset:
    """The images that ImageNet-O is told from: ImageNet's validation images of its 200 classes, labelled by its list.

    `data_dir` holds `imagenet/val/<wnid>/`, or is ImageNet's folder itself. A class without an image is an error.
    """
    row = CATALOG["imagenet-1k"]
    given = TableSource(row.name, data_dir=str(find_set_folder(row.name, data_dir)))
    images = take_classes(load_catalog_dataset(row, given, "test"), read_class_list("imagenet_o"))
    return require_every_class(images)


def require_every_class(images: LoadedImages) -> LoadedImages:
    """The images themselves; refuses an archive that was unpacked in part, on which no accuracy compares."""
    missing = sorted(set(range(images.num_classes)) - set(images.labels.tolist()))
    if missing:
        some = ", ".join(images.class_names[label] for label in missing[:5])
        raise ValueError(
            f"{images.description.source}: images of {images.num_classes - len(missing)} of {images.num_classes} "
            f"classes, {some}{' …' if len(missing) > 5 else ''} missing; unpack the whole archive"
        )
    return images


def find_set_folder(name: str, data_dir: str | os.PathLike[str]) -> Path:
    """Where a set of the catalog lies, before any of its files is looked for.

    `data_dir` holds the folder that the set's archives unpack to, or is that folder; else a FileNotFoundError says
    what was looked for.
    """
    row, folder = CATALOG[CATALOG[name].base or name], Path(data_dir).expanduser()
    found = _require_set_folder(row, folder)
    if row.layout is Layout.split_folders:
        looked_for = [*(f"{each}/val/" for each in row.folders), "val/"]
        is_there = found.is_dir() and bool(list_split_folders(list_subfolders(found), SplitKind.test))
    else:
        looked_for = [f"{each}/" for each in row.folders]
        is_there = found.is_dir() and (found != folder or folder.resolve().name in row.folders)
    if not is_there:
        raise FileNotFoundError(
            f"{name} is not in {folder}: looked for {', '.join(looked_for)}; unpack {row.original_files}"
        )
    return found


def find_corruption_folders(
    data_dir: str | os.PathLike[str], corruptions: Sequence[str] | None = None
) -> dict[tuple[str, int], Path]:
    """The folders of ImageNet-C: `<corruption>/<severity>`, directly or below the archives' names (`noise/…`).

    Of some of the fifteen corruptions, or of all. All that are missing are named by one error.
    """
    folder = find_set_folder("imagenet-c", data_dir)
    names = BENCHMARK_CORRUPTIONS if corruptions is None else corruptions
    places = {
        (name, severity): _find_corruption_folder(folder, name, severity) for name in names for severity in SEVERITIES
    }
    missing = [f"{name}/{severity}" for (name, severity), place in places.items() if place is None]
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of the folders <corruption>/<severity> are missing: {', '.join(missing)}; "
            "unpack the archives noise, blur, weather and digital there, or name corruptions with --corruptions"
        )
    return {key: place for key, place in places.items() if place is not None}


def _require_set_folder(row: DatasetRow, folder: Path) -> Path:
    """The folder of a set's own name in a folder of several sets, else that folder itself."""
    return next((folder / name for name in row.folders if (folder / name).is_dir()), folder)


def _find_corruption_folder(folder: Path, corruption: str, severity: int | str) -> Path | None:
    archives = [folder, *(folder / name for name in list_subfolders(folder))]
    return next((place for above in archives if (place := above / corruption / str(severity)).is_dir()), None)


def _load_from_base(row: DatasetRow, given: TableSource, split: str) -> ImageDataset:
    """A set without images of its own: the low-shot lists, and the watermark."""
    base = CATALOG[str(row.base)]
    is_listed = row.name in LISTED_PERCENT and split == "train"
    if is_listed:
        given = replace(given, max_images=None)  # the list names images of the whole set
    copy = None if given.dataset_id == row.name else given.dataset_id
    images = load_catalog_dataset(base, replace(given, dataset=base.name, dataset_id=copy), split)
    if is_listed:
        return take_listed_subset(images, read_low_shot_list(LISTED_PERCENT[row.name], given.cache_dir))
    return images if row.name in LISTED_PERCENT else WatermarkedImages(images)


def choose_row_table(row: DatasetRow, given: TableSource) -> TableSource:
    """Where the table of a set lies: in the user's folder, in another copy on the Hub, or in the catalog's."""
    is_ours = given.data_dir is None and given.dataset_id in (None, row.name, row.dataset_id)
    if is_ours and not row.has_table:
        raise ValueError(
            f"{row.name} cannot be read from the Hub; unpack its original files ({row.original_files}) and name the "
            "folder with --data-dir."
        )
    return replace(
        given,
        dataset=given.data_dir or str(row.dataset_id if is_ours else given.dataset_id),
        data_dir=None,
        dataset_id=None,
        # The row's configuration and commit mean nothing to another copy, and a folder has no commits.
        config=given.config or (row.config if is_ours else None),
        revision=None if given.data_dir else given.revision or (row.revision if is_ours else None),
        usual_image_column=row.image_column,
        usual_label_column=row.label_column,
        num_classes=row.num_classes,
    )


def find_stored_splits(row: DatasetRow, source: TableSource, split: str) -> tuple[str, ...]:
    """The row's stored splits where the table has them, else our own name of the split."""
    if (Path(source.dataset) / MANIFEST).is_file():
        return (split,)
    stored = row.splits[split]
    return stored if source.dataset == row.dataset_id or set(stored) <= set(split_names(source)) else (split,)


def _from_own_files(row: DatasetRow, given: TableSource, split: str) -> ImageDataset:
    folder = Path(str(given.data_dir)).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data_dir {folder}: no such folder; give the one with the files of {row.name}.")
    folder = _require_set_folder(row, folder)
    require_complete(folder)
    if has_tables(folder):
        return _from_tables(row, choose_row_table(row, replace(given, data_dir=str(folder))), split)
    if row.name == "imagenet-c" and given.config is not None:
        return load_catalog_folder(row, _parse_corruption(folder, given.config), split)
    return load_catalog_folder(row, folder, split, given.split_seed)


def _parse_corruption(folder: Path, chosen: str) -> Path:
    corruption, _, severity = chosen.partition("/")
    known = {*BENCHMARK_CORRUPTIONS, *HOLD_OUT_CORRUPTIONS}
    if corruption not in known or severity not in map(str, SEVERITIES):
        raise ValueError(
            f"config {chosen!r} of imagenet-c: give <corruption>/<severity 1 to 5>, such as fog/3; the corruptions "
            f"are {', '.join(sorted(known))}."
        )
    place = _find_corruption_folder(folder, corruption, severity)
    if place is None:
        raise ValueError(f"{folder}: no folder {chosen} in it or below its folders; unpack the archive that has it.")
    return place


def _from_tables(row: DatasetRow, source: TableSource, split: str) -> TableDataset:
    images = load_table(source, "+".join(find_stored_splits(row, source, split)))
    numbers = [str(number) for number in range(row.num_classes)]
    reaches = source.max_images is not None or images.class_names[-1:] == numbers[-1:]
    if images.names_from_rows and reaches and set(images.class_names) < set(numbers):
        renumber(images, numbers)  # bare numbers, of which the rows that are there need not have every one
    if row.class_list is not None:
        wnids = read_class_list(row.class_list)
        images.stored_class_names = list(images.class_names)
        images.labels = map_labels_to_list(images.labels, images.class_names, wnids, source.dataset)
        images.class_names = list(wnids)
        images.description = images.description.derive(wnids, images.labels, num_classes=len(wnids))
    elif images.num_classes != row.num_classes:
        raise ValueError(
            f"{source.dataset} ({split}): {images.num_classes} classes, where {row.name} has {row.num_classes}; "
            "check the label column and that it is the copy of this set."
        )
    elif isinstance(row.known_names, str) and row.known_names and all(map(str.isdecimal, images.class_names)):
        images.class_names = list(read_class_list(row.known_names))
    return images


def load_catalog_folder(row: DatasetRow, folder: Path, split: str, seed: int = 0) -> ImageDataset:
    """Reads one split from the user's files: as the set's archives unpack, or `train/<class>/` beside `test/<class>/`.

    Images are in sorted order, or in that of the set's own lists; labels follow the set's class list where it has one.
    The seed draws the training images where there is no official split.
    """
    folders = list_subfolders(folder)
    trains, tests = (list_split_folders(folders, kind) for kind in (SplitKind.train, SplitKind.test))
    if row.layout is Layout.class_folders:
        images = _load_class_folders(row, folder, split)
    elif trains and tests and row.metric is not Metric.average_precision:
        images = load_image_folder(folder, split)
    elif row.name in READERS:
        return _listed(row, folder, split)
    elif row.layout is Layout.draw:
        images = _drawn(row, folder, split, seed)
    elif row.layout is Layout.split_folders and split == "test" and tests:
        # The official test images come without class folders.
        labeled = next((name for name in tests if list_subfolders(folder / name)), tests[0])
        images = _load_class_folders(row, folder / labeled, split)
    else:
        raise ValueError(
            f"{folder}: {row.name} is read from a folder with train/<class>/ beside test/<class>/ or "
            f"val/<class>/, or from parquet files ({row.original_files})."
        )
    if row.class_list is None:
        return images
    return _in_list(row, images, read_class_list(row.class_list))


def _listed(row: DatasetRow, folder: Path, split: str) -> ImageDataset:
    """As the lists of the set's authors say."""
    try:
        return read_original(row.name, folder, split)
    except LayoutNotFoundError as error:
        raise ValueError(
            f"{error} {row.name} is read as its archives unpack ({row.original_files}), from train/<class>/ "
            "beside test/<class>/, or from parquet files."
        ) from error


def _load_class_folders(row: DatasetRow, folder: Path, split: str) -> ImageFolderDataset:
    """Every image, at any depth; its class is the folder that it lies in."""
    if split != "test":
        raise ValueError(f"{row.name} has no split {split!r}: all its images are test images.")
    names = [name for name in list_image_files(folder) if "/" in name]
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
    return _load_folder_dataset(row, folder, names, class_names, split, rule)


def _drawn(row: DatasetRow, folder: Path, split: str, seed: int) -> ImageFolderDataset:
    """A fixed number of training images per class, chosen by a hash of seed and name; the rest is for the test."""
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} of {row.name}: it has the splits train and test; give one of them.")
    names = [name for name in list_image_files(folder) if "/" in name]
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
    train = {name for files in of_class.values() for name in _take_first_by_hash(files, seed)}
    chosen = [name for name in names if (name in train) == (split == "train")]
    rule = f"{DRAWN_TRAIN_IMAGES} training images per class drawn by seed {seed}, the rest for the test"
    return _load_folder_dataset(row, folder, chosen, sorted(of_class), split, rule)


def _take_first_by_hash(files: Sequence[str], seed: int) -> list[str]:
    # The last two parts only: the draw must not depend on which folder above was given.
    digests = {
        name: hashlib.blake2b(f"{seed}/{'/'.join(name.split('/')[-2:])}".encode("utf-8", "surrogateescape")).digest()
        for name in files
    }
    return sorted(files, key=digests.__getitem__)[:DRAWN_TRAIN_IMAGES]


def _load_folder_dataset(
    row: DatasetRow, folder: Path, names: Sequence[str], class_names: Sequence[str], split: str, rule: str
) -> ImageFolderDataset:
    index = {name: number for number, name in enumerate(class_names)}
    labels = [index[name.rsplit("/", 2)[-2]] for name in names]
    return ImageFolderDataset(folder, names, labels, class_names, split, rule)


def _in_list(row: DatasetRow, images: ImageFolderDataset, wnids: Sequence[str]) -> ImageFolderDataset:
    """Labels in the order of the list; for ImageNet-100 its classes are first taken out of those of ImageNet."""
    names, labels, class_names = list(images.names), images.labels, images.class_names
    rule = images.description.split_rule
    thousand = read_class_list("imagenet_1k")
    others = set(class_names) - set(wnids)
    if row.name == "imagenet-100" and others and others <= set(thousand) and others != set(class_names):
        wanted = np.isin(class_names, wnids)
        kept = wanted[labels]
        names = [name for name, is_kept in zip(names, kept, strict=True) if is_kept]
        labels = (np.cumsum(wanted) - 1)[labels[kept]]
        rule += f", {int(wanted.sum())} of {len(class_names)} classes"
        class_names = [name for name in class_names if name in set(wnids)]
    translated = map_labels_to_list(labels, class_names, wnids, str(images.root))
    return ImageFolderDataset(images.root, names, translated.tolist(), wnids, images.description.split, rule)
