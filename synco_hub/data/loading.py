"""From what a user types to an image data set."""

import difflib
import logging
import os
from pathlib import Path
from typing import Any

from synco_hub.data.catalog.loading import TABLE_FILES, load_catalog_dataset
from synco_hub.data.catalog.rows import CATALOG, row_meant
from synco_hub.data.fractals.dataset import FractalDataset, FractalParameters
from synco_hub.data.hub_dataset import load_hub_dataset
from synco_hub.data.hub_source import HubSource
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.image_folder import contains_images, load_image_folder
from synco_hub.data.image_subset import spread_subset
from synco_hub.data.shard_manifest import require_complete

FRACTALS = "fractals"

logger = logging.getLogger(__name__)


def load_dataset(
    name_or_path: str | os.PathLike[str],
    split: str = "train",
    *,
    seed: int = 0,
    image_size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    dataset_id: str | None = None,
    max_images: int | None = None,
) -> ImageDataset:
    """Opens a data set by name or path.

    Args:
        name_or_path: One of
            `fractals`, the embedded default, with settings if wanted: `fractals:num_classes=20,image_size=64`;
            a name of the catalog, such as `imagenet-100` (`synco-hub data list` shows all);
            a folder of images (see `load_image_folder`) or of parquet, arrow or webdataset files;
            a Hub id `namespace/name`.
        split: `train` or `test`. Tables also take their own split names.
        seed: Draws the test images of a folder that has no test folder.
        image_size: Size in pixels at which fractals are drawn; other images keep their size.
        cache_dir: Where drawn or downloaded images are kept.
        data_dir: For a name of the catalog the folder with its files, so that nothing is downloaded; for a Hub id a
            folder inside the repository.
        image_column: Column of a table; found by its type if None.
        label_column: Column of a table; found by its type if None.
        config: Configuration of a Hub data set.
        revision: Commit, branch or tag of a Hub data set.
        dataset_id: For a name of the catalog another copy on the Hub, with the splits and columns of the catalog where
            it has them.
        max_images: So many images at most, spread over the split; of tables no more than some times as many are read
            or downloaded.

    Returns:
        The images of the split in a fixed order.

    Raises:
        ValueError: If nothing of that name is known, or it has no images, no such split or no such column.
        ImportError: If a table is asked for and the `datasets` library is not installed.
    """
    name = os.fspath(name_or_path)
    source = HubSource(
        dataset_id=dataset_id or name,
        config=config,
        revision=revision,
        data_dir=None if data_dir is None else os.fspath(data_dir),
        image_column=image_column,
        label_column=label_column,
        cache_dir=None if cache_dir is None else os.fspath(cache_dir),
        max_images=max_images,
    )
    images = _opened(name, split, source, dataset_id, seed, image_size)
    return images if max_images is None else spread_subset(images, max_images)


def _opened(
    name: str, split: str, source: HubSource, named_copy: str | None, seed: int, image_size: int | None
) -> ImageDataset:
    """The images of what a name or path means: fractals, a set of the catalog, a folder, a Hub id."""
    path = Path(name).expanduser()
    kind, _, options = name.partition(":")
    if kind == FRACTALS and not path.is_dir():
        _refuse_ignored(name, source, "fractals are drawn here")
        return FractalDataset(split, _fractal_parameters(options, image_size), source.cache_dir)
    if named_copy is not None and (name not in CATALOG or source.data_dir is not None):
        raise ValueError(
            f"dataset_id {named_copy!r} is another copy of a set of the catalog, which {name!r} "
            f"{'is' if name in CATALOG else 'is not'}, and --data-dir takes the place of both; give one of them."
        )
    row = row_meant(name, source.data_dir, named_copy)
    if row is not None:
        return load_catalog_dataset(row, source, split, seed)
    if path.is_dir():
        return _of_folder(name, path, split, source, seed)
    # Without a namespace it is a slip of the pen rather than a Hub id, and must not wait for the network.
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise ValueError(_unknown(name))
    return load_hub_dataset(source, split)


def _of_folder(name: str, path: Path, split: str, source: HubSource, seed: int) -> ImageDataset:
    """Image files, or else tables."""
    if name in CATALOG:
        logger.warning(
            "%s (%s): the folder of that name in the current directory is read as a folder of images, not the set of "
            "the catalog; --data-dir ./%s reads it as the set.",
            *(name, split, name),
        )
    require_complete(path)
    if not contains_images(path) and any(next(path.rglob(pattern), None) for pattern in TABLE_FILES):
        return load_hub_dataset(source, split)
    _refuse_ignored(name, source, "it is a folder of image files")
    return load_image_folder(path, split, seed)


def _refuse_ignored(name: str, source: HubSource, reason: str) -> None:
    """What is said of a table, and would not be heard."""
    for field in ("data_dir", "config", "revision", "image_column", "label_column"):
        if (value := getattr(source, field)) is not None:
            raise ValueError(
                f"--{field.replace('_', '-')} {value} says nothing of data set {name!r}, since {reason}: leave it out."
            )


def _fractal_parameters(options: str, image_size: int | None) -> FractalParameters:
    """Reads `num_classes=20,image_size=64`; a size in the options comes before the argument."""
    known = list(FractalParameters.__dataclass_fields__)
    settings: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in known:
            raise ValueError(f"{FRACTALS}: no setting {key!r}{_nearest(key, known)}; known are {', '.join(known)}.")
        if not value.isdecimal():
            raise ValueError(f"{FRACTALS}: {key}={value} is no whole number; write for example {key}=20.")
        settings[key] = int(value)
    return FractalParameters(**settings)


def _unknown(name: str) -> str:
    folder = Path(name).expanduser().parent
    neighbours = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    candidates = [*CATALOG, *(os.path.join(os.path.dirname(name), neighbour) for neighbour in neighbours)]
    return (
        f"data set {name!r}: neither a known name nor a folder{_nearest(name, candidates)}; give {FRACTALS}, a name "
        "of `synco-hub data list`, the path of a folder of images, or a Hub id namespace/name."
    )


def _nearest(name: str, candidates: list[str]) -> str:
    found = difflib.get_close_matches(name, candidates, n=3)
    return f" (did you mean {' or '.join(found)}?)" if found else ""
