"""From what a user types to an image data set."""

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from synco_hub.data.catalog.loading import load_catalog_dataset
from synco_hub.data.catalog.sets import CATALOG, find_row_meant
from synco_hub.data.decoding import UnreadableImageError, measure_extent
from synco_hub.data.folder_files import explain_file, list_image_files
from synco_hub.data.folder_version_0_1 import load_version_0_1_images
from synco_hub.data.fractals.dataset import FractalDataset, FractalParameters
from synco_hub.data.idx_files import find_idx_files, read_idx_folder
from synco_hub.data.image_dataset import ImageDataset, note_value_range
from synco_hub.data.image_folder import PRETRAINING, ImageFolderDataset, load_image_folder
from synco_hub.data.preparation import require_complete
from synco_hub.data.subsets import ImageSubset, hold_out, spread_subset
from synco_hub.data.table_source import TableSource, has_tables, is_hub_id
from synco_hub.data.tables import TableDataset, load_table
from synco_hub.data.value_range import Extent, ValueRange, join_extents, spread
from synco_hub.errors import suggest
from synco_hub.settings import DatasetChoice

FRACTALS = "fractals"

# Of each split, to know the values that images of more than 8 bits have.
MEASURED_IMAGES = 32
_EIGHT_BITS = (".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".gif", ".bmp")

logger = logging.getLogger(__name__)


def load_dataset(
    choice: DatasetChoice | str | os.PathLike[str],
    split: str = "train",
    *,
    image_size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    max_images: int | None = None,
) -> ImageDataset:
    """Opens a data set by name or path: the one way in for every image of the package.

    Args:
        choice: Which images; a string or a path is short for `DatasetChoice(dataset=...)`. Its `dataset` is one of
            `fractals`, the embedded default, with settings if wanted: `fractals:num_classes=20,image_size=64`;
            a name of the catalog, such as `imagenet-100` (`synco-hub data list` shows all);
            a folder of images (see `load_image_folder`), of parquet, arrow or webdataset files, or of the four idx
            files of MNIST, KMNIST or EMNIST (of several sets `config` names one);
            a Hub id `namespace/name`.
        split: `train` or `test`. Tables also take their own split names, folders of images `pretraining` and `all`
            (see `load_image_folder`); `pretraining` is `train` for whatever else it is.
        image_size: Size in pixels at which fractals are drawn; other images keep their size.
        cache_dir: Where drawn or downloaded images are kept.
        max_images: So many images at most, spread over the split; of tables no more than some times as many are read
            or downloaded.

    Returns:
        The images of the split in a fixed order.

    Raises:
        ValueError: If nothing of that name is known, or it has no images, no such split or no such column.
        ImportError: If a table is asked for and the `datasets` library is not installed.
    """
    choice = choice if isinstance(choice, DatasetChoice) else DatasetChoice(os.fspath(choice))
    given = TableSource.of(
        choice,
        data_dir=None if choice.data_dir is None else os.fspath(choice.data_dir),
        cache_dir=None if cache_dir is None else os.fspath(cache_dir),
        max_images=max_images,
    )
    images = _open(given, split, image_size)
    _choose_value_range(images, given, split)
    return images if max_images is None else spread_subset(images, max_images)


def _choose_value_range(images: ImageDataset, given: TableSource, split: str) -> None:
    """One range for all images of more than 8 bits, over all splits: what the user says, or what some of them hold."""
    chosen = None if given.value_range is None else ValueRange.parse(given.value_range)
    stored = _find_stored_images(images)
    if stored is None:
        return
    if chosen is None:
        extents = _measure_extents(stored)
        if not any(extents):
            return
        for other in {"train", "test"} - {split}:
            with contextlib.suppress(ValueError):
                beside = _find_stored_images(_open(given, other, None))
                extents += [] if beside is None else _measure_extents(beside)
        chosen = join_extents(extents)
    note_value_range(images, stored, chosen)


def _find_stored_images(images: Any) -> ImageFolderDataset | TableDataset | None:
    """The files or rows behind a part or a change of them; None where nothing is stored as a file."""
    while not isinstance(images, ImageFolderDataset | TableDataset):
        images = getattr(images, "images", None)
        if images is None:
            return None
    return images


def _measure_extents(images: ImageDataset) -> list[Extent | None]:
    extents = []
    for index in spread(len(images), MEASURED_IMAGES):
        if not images.name(index).lower().endswith(_EIGHT_BITS):
            with contextlib.suppress(UnreadableImageError, NotImplementedError, OSError):
                extents.append(measure_extent(images.encoded(index)))
    return extents


def _open(given: TableSource, split: str, image_size: int | None) -> ImageDataset:
    """The images of what a name or path means: fractals, a set of the catalog, a folder, a Hub id."""
    name = given.dataset
    path = Path(name).expanduser()
    kind, _, options = name.partition(":")
    if kind == FRACTALS and not path.is_dir():
        _refuse_ignored(given, "fractals are drawn here")
        return FractalDataset(_stored(split), _parse_fractal_parameters(options, image_size), given.cache_dir)
    if given.dataset_id is not None and (name not in CATALOG or given.data_dir is not None):
        raise ValueError(
            f"dataset_id {given.dataset_id!r} is another copy of a set of the catalog, which {name!r} "
            f"{'is' if name in CATALOG else 'is not'}, and --data-dir takes the place of both; give one of them."
        )
    row = find_row_meant(name, given.data_dir, given.dataset_id)
    if row is not None:
        return load_catalog_dataset(row, given, _stored(split))
    if path.is_dir():
        return _load_from_folder(path, split, given)
    if path.is_file():
        raise ValueError(f"data set {name!r}: {explain_file(path)}")
    if not is_hub_id(name):
        raise ValueError(_unknown(name))
    return load_table(given, split)


def _stored(split: str) -> str:
    """What is no folder of images has no images beyond its training split that could be learned from."""
    return "train" if split == PRETRAINING else split


def _load_from_folder(path: Path, split: str, given: TableSource) -> ImageDataset:
    """Tables, the idx files of MNIST's family, or else image files."""
    name = given.dataset
    if name in CATALOG:
        logger.warning(
            "%s (%s): the folder of that name in the current directory is read as a folder of images, not the set of "
            "the catalog; --data-dir ./%s reads it as the set.",
            *(name, split, name),
        )
    require_complete(path)
    if has_tables(path):
        return load_table(given, split)
    if find_idx_files(path) and not list_image_files(path):
        _refuse_ignored(replace(given, config=None), "it is a folder of idx files")
        return read_idx_folder(path, _stored(split), given.config)
    _refuse_ignored(replace(given, label_column=None), "it is a folder of image files")
    return load_image_folder(path, split, given.split_seed, given.label_column)


def load_pretraining_images(
    choice: DatasetChoice,
    holdout: float | None = None,
    *,
    image_size: int | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> ImageDataset:
    """The images that pretraining learns from, which needs no labels: of a folder all that lie in no test folder.

    Args:
        choice: Which images.
        holdout: Images to keep out (see `hold_out`), drawn by the choice's `split_seed`.
        image_size: Size in pixels at which fractals are drawn.
        recorded: See `load_recorded_images`.
    """

    def keep(images: ImageDataset) -> ImageDataset:
        return images if holdout is None else hold_out(images, holdout, choice.split_seed)

    return load_recorded_images(choice, PRETRAINING, recorded, keep, image_size=image_size)


def load_recorded_images(
    choice: DatasetChoice,
    split: str,
    recorded: Mapping[str, Any] | None,
    keep: Callable[[ImageDataset], ImageDataset],
    *,
    image_size: int | None = None,
) -> ImageDataset:
    """The images of a split, or of a run that goes on those with which it began, where an earlier version read them.

    Args:
        choice: Which images.
        split: As for `load_dataset`.
        recorded: Description of the images with which the run began; None for a new one.
        keep: Takes the part of them that is learned from.
        image_size: Size in pixels at which fractals are drawn.
    """
    images = keep(load_dataset(choice, split, image_size=image_size))
    begun = (recorded or {}).get("fingerprint", images.description.fingerprint)
    if images.description.is_same_data(begun):
        return images
    for open_as_before in _list_earlier_ways(choice, split, images, image_size):
        with contextlib.suppress(ValueError):  # such a folder was refused then
            earlier = keep(open_as_before())
            if earlier.description.is_same_data(begun):
                return earlier
    return images


def _list_earlier_ways(
    choice: DatasetChoice, split: str, images: ImageDataset, image_size: int | None
) -> list[Callable[[], ImageDataset]]:
    """How earlier versions read the same: each image of more than 8 bits by itself, folders by fewer rules."""
    each = replace(choice, value_range="each")
    ways: list[Callable[[], ImageDataset]] = []
    if choice.value_range is None:
        ways.append(lambda: load_dataset(each, split, image_size=image_size))
    stored = _find_stored_images(images)
    if isinstance(stored, TableDataset):
        names = [split, "train"] if split == PRETRAINING else [split]
        of_library = [TableSource.of(how, library_splits=True) for how in (choice, each)]
        ways += [
            partial(load_dataset, how, name, image_size=image_size)
            for how in (choice, each, *of_library)
            for name in names
        ]
    if isinstance(stored, ImageFolderDataset) and find_row_meant(choice.dataset, choice.data_dir, None) is None:

        def open_folder() -> ImageDataset:
            found = load_version_0_1_images(choice.dataset, _stored(split), choice.split_seed)
            found.value_range = ValueRange.parse(choice.value_range or "each")
            return found

        ways.append(open_folder)
    return ways


def describe_pretraining_images(images: ImageDataset) -> str:
    """How many of how many images pretraining learns from, and which those are: one line."""
    about = images.description
    whole = images.images if isinstance(images, ImageSubset) else images
    found = whole.num_found if isinstance(whole, ImageFolderDataset) else len(whole)
    return f"pretraining on {len(images):,} of {found:,} images of {about.name}: {about.split_rule}"


def _refuse_ignored(given: TableSource, reason: str) -> None:
    """What is said of a table, and would not be heard."""
    for field in ("data_dir", "config", "revision", "image_column", "label_column"):
        if (value := getattr(given, field)) is not None:
            raise ValueError(
                f"--{field.replace('_', '-')} {value} says nothing of data set {given.dataset!r}, since {reason}: "
                "leave it out."
            )


def _parse_fractal_parameters(options: str, image_size: int | None) -> FractalParameters:
    """Reads `num_classes=20,image_size=64`; a size in the options comes before the argument."""
    known = list(FractalParameters.__dataclass_fields__)
    settings: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in known:
            raise ValueError(f"{FRACTALS}: no setting {key!r}; known are {', '.join(known)}.{suggest(key, known)}")
        if not value.isdecimal():
            raise ValueError(f"{FRACTALS}: {key}={value} is no whole number; write for example {key}=20.")
        settings[key] = int(value)
    return FractalParameters(**settings)


def _unknown(name: str) -> str:
    folder = Path(name).expanduser().parent
    neighbours = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    candidates = [*CATALOG, *(os.path.join(os.path.dirname(name), neighbour) for neighbour in neighbours)]
    return (
        f"data set {name!r}: neither a known name nor a folder; give {FRACTALS}, a name of `synco-hub data list`, the "
        f"path of a folder of images, or a Hub id namespace/name.{suggest(name, candidates)}"
    )
