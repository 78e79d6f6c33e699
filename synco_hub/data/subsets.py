"""Some images of a data set: by a list, of some classes, spread over it, or drawn by a seed.

The lists of 1 % and 10 % of ImageNet's training images are SimCLR's (google-research/simclr, imagenet_subsets), which
the paper's low-shot measurements read too.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.atomic_write import atomic_write
from synco_hub.data.cache_directory import data_cache_directory
from synco_hub.data.image_dataset import UNLABELED, ImageDataset
from synco_hub.data.image_folder import draw_evenly, draw_stratified_test_mask
from synco_hub.data.samplers import derive_random_key

LISTED_SET = "imagenet-1k"
LINES = {1: 12811, 10: 128116}
URL_VARIABLE = "SYNCO_HUB_IMAGENET_SUBSETS_URL"
DEFAULT_URL = "https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets"
_LARGEST = 16 << 20
_TIMEOUT_S = 30


class ImageSubset(ImageDataset):
    """Some images of a data set, in its order.

    Args:
        images: The whole data set.
        indices: Which images. Shape: (num_kept,).
        rule: How they were chosen, in words.
        labels: Other labels for them, with the names of their classes; None keeps those of the whole.
        class_names: See `labels`.
    """

    def __init__(
        self,
        images: ImageDataset,
        indices: npt.NDArray[np.int64],
        rule: str,
        labels: npt.NDArray[np.int64] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        names = images.class_names if class_names is None else list(class_names)
        description = images.description.derive(
            indices,
            num_images=len(indices),
            num_classes=len(names),
            split_rule=f"{images.description.split_rule}; {rule}",
        )
        super().__init__(images.labels[indices] if labels is None else labels, names, description)
        self.images = images
        self.indices = indices
        if images.multi_hot is not None:
            self.multi_hot = images.multi_hot[indices]

    def load_image(self, index: int) -> Image.Image:
        """Decodes one image to RGB."""
        return self.images.load_image(int(self.indices[index]))

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.images.name(int(self.indices[index]))

    def load_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Decodes one image to an array."""
        return self.images.load_pixels(int(self.indices[index]))

    def encoded(self, index: int) -> bytes:
        """One image as a file."""
        return self.images.encoded(int(self.indices[index]))


def take_listed_subset(images: ImageDataset, list_file: str | os.PathLike[str]) -> ImageSubset:
    """Keeps the images that a file names, one a line.

    Folders and the extension may be left out where file names are unique, as in SimCLR's `1percent.txt`. A line that
    names no image or several is an error.
    """
    # Names that are no UTF-8 are those of the disk.
    lines = Path(list_file).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    wanted = {line.strip() for line in lines if line.strip()}
    if not wanted:
        raise ValueError(f"{str(list_file)!r} names no image: give a file with one image name a line")
    by_path: dict[str, list[int]] = {}
    by_file_name: dict[str, list[int]] = {}
    by_stem: dict[str, list[int]] = {}
    for index, name in enumerate(images.file_names()):
        by_path.setdefault(name, []).append(index)
        by_file_name.setdefault(Path(name).name, []).append(index)
        by_stem.setdefault(Path(name).stem, []).append(index)
    found = {
        name: by_path.get(name) or by_file_name.get(Path(name).name) or by_stem.get(Path(name).stem) or []
        for name in wanted
    }
    wrong = sorted(name for name, positions in found.items() if len(positions) != 1)
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(wanted)} images of {str(list_file)!r} name no single image of "
            f"{images.description.name}, first {wrong[0]!r} ({len(found[wrong[0]])} images): give the list that "
            "belongs to this data set, with folders where file names repeat"
        )
    indices = np.array(sorted({positions[0] for positions in found.values()}), dtype=np.int64)
    return ImageSubset(images, indices, f"list {Path(list_file).name}, {len(indices)} of {len(images)} images")


def spread_subset(images: ImageDataset, max_images: int) -> ImageDataset:
    """Keeps so many images at most, one of each of as many equal stretches: of images sorted by class as many of each.

    The same ones at every call; a data set that has no more is returned as it is.
    """
    if max_images < 1:
        raise ValueError(f"max_images={max_images} of {images.description.name}: give at least 1, or leave it out.")
    if len(images) <= max_images:
        return images
    bounds = np.arange(max_images + 1, dtype=np.int64) * len(images) // max_images
    # Not the first of each stretch: where classes take turns, that could always be the same class.
    indices = np.random.default_rng(0).integers(bounds[:-1], bounds[1:])
    return ImageSubset(images, indices, f"{max_images} of {len(images)} images, spread over them")


def take_classes(images: ImageDataset, class_names: Sequence[str]) -> ImageSubset:
    """Keeps the images of some classes, labelled by their order; each has to be among those of the images."""
    position = {name: number for number, name in enumerate(images.class_names)}
    missing = [name for name in class_names if name not in position]
    if missing:
        raise ValueError(
            f"{images.description.name} has no {', '.join(missing[:3])}: {len(missing)} of {len(class_names)} classes "
            "are not among its own; give the data set that they belong to"
        )
    translated = np.full(len(images.class_names) + 1, UNLABELED, dtype=np.int64)
    translated[[position[name] for name in class_names]] = np.arange(len(class_names))
    labels = translated[images.labels]  # an unlabeled image takes the last entry, which is -1
    indices = np.flatnonzero(labels != UNLABELED).astype(np.int64)
    rule = f"{len(class_names)} of {images.num_classes} classes"
    return ImageSubset(images, indices, rule, labels[indices], class_names)


def read_low_shot_list(percent: int, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The file with the names of 1 % or 10 % of ImageNet's training images, one `<wnid>_<number>.JPEG` a line.

    It is downloaded if it is not there; of what arrives in part nothing is kept.
    """
    if percent not in LINES:
        raise ValueError(f"{percent} % of ImageNet: there are lists of {' and '.join(map(str, LINES))} %.")
    path = data_cache_directory(cache_dir) / "imagenet_subsets" / f"{percent}percent.txt"
    if not path.is_file():
        content = _download_list(f"{os.environ.get(URL_VARIABLE, DEFAULT_URL).rstrip('/')}/{path.name}")
        _check(content, percent, "the download")
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    _check(path.read_bytes(), percent, str(path))
    return path


def _download_list(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read(_LARGEST + 1)
            promised = answer.headers.get("Content-Length")
    # A cut connection is an IncompleteRead of http.client, which is no OSError.
    except Exception as error:
        raise ValueError(
            f"{url}: the list cannot be downloaded ({type(error).__name__}: {error}); check the connection, name "
            f"another address in {URL_VARIABLE}, or give the list itself with --train-list."
        ) from error
    if promised is not None and len(content) != int(promised):
        raise ValueError(f"{url}: {len(content)} of {promised} bytes arrived; try again, nothing was kept.")
    return content


def _check(content: bytes, percent: int, where: str) -> None:
    lines = {line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()}
    if len(lines) != LINES[percent] or not all(_is_training_image(line) for line in lines):
        raise ValueError(
            f"{where}: {len(lines)} image names, where SimCLR's list of {percent} % has {LINES[percent]}; remove it "
            "and try again, or give the list with --train-list."
        )


def _is_training_image(line: str) -> bool:
    """An `n`, eight digits, `_`, a number, `.JPEG`."""
    wnid, _, number = line.removesuffix(".JPEG").partition("_")
    return line.endswith(".JPEG") and len(wnid) == 9 and wnid[0] == "n" and (wnid[1:] + number).isdecimal()


def take_low_shot_subset(
    images: ImageDataset,
    fraction: float | None,
    list_file: str | os.PathLike[str] | None,
    seed: int,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ImageDataset:
    """The training images of a low-shot protocol; all of them where neither a share of each class nor a list is given.

    1 % and 10 % of `imagenet-1k` are SimCLR's lists, so that numbers compare; every other share is drawn.
    """
    if fraction is not None and list_file is not None:
        raise ValueError("--train-fraction and --train-list both choose the low-shot images: give one of them.")
    if list_file is not None:
        return take_listed_subset(images, list_file)
    if fraction is None:
        return images
    percent = next((percent for percent in LINES if fraction == percent / 100), None)
    if percent is not None and images.description.name == LISTED_SET:
        return take_listed_subset(images, read_low_shot_list(percent, cache_dir))
    return draw_subset(images, fraction, seed)


def draw_subset(images: ImageDataset, fraction: float, seed: int) -> ImageSubset:
    """Draws a share of the images of each class, in (0, 1]; rounded, at least one image."""
    if not 0 < fraction <= 1:
        raise ValueError(f"train_fraction={fraction} is not in (0, 1]: low-shot protocols use 0.01 or 0.1")
    images.require_labels("a low-shot draw")
    kept = []
    for label in range(images.num_classes):
        members = np.flatnonzero(images.labels == label)
        if len(members) == 0:
            continue
        generator = np.random.Generator(np.random.PCG64(derive_random_key(seed, label)))
        kept.append(generator.permutation(members)[: max(1, round(fraction * len(members)))])
    indices = np.sort(np.concatenate(kept)).astype(np.int64)
    return ImageSubset(
        images, indices, f"{fraction:g} of each class drawn with seed {seed}, {len(indices)} of {len(images)} images"
    )


def hold_out(images: ImageDataset, holdout: float, seed: int) -> ImageSubset:
    """Keeps images out of what is learned from: a share of each class below 1, else that many of all.

    A share of 0.2 of a folder of classes keeps out exactly the images that are its drawn test split with this seed;
    images without a class are one class.
    """
    if not 0 < holdout < 1 and not (float(holdout).is_integer() and 1 <= holdout < len(images)):
        raise ValueError(
            f"--holdout {holdout:g} of {len(images)} images: give a share between 0 and 1, such as 0.2, or a whole "
            "number of images that leaves some."
        )
    names, labels = images.file_names(), images.labels.tolist()
    if holdout < 1:
        held, what = draw_stratified_test_mask(names, labels, seed, holdout), f"{holdout:g} of each class"
    else:
        held, what = draw_evenly(names, labels, seed, int(holdout)), f"{int(holdout)} images"
    rule = f"{what} held out by seed {seed}, {len(images) - int(held.sum())} of {len(images)} images"
    return ImageSubset(images, np.flatnonzero(~held), rule)


def sample_images(images: ImageDataset, count: int | None, seed: int) -> tuple[ImageDataset, list[int] | None]:
    """Draws images without regard to their classes; all where `count` is None.

    They come in the order of the data set, with their positions in it (None where it is whole). A larger count adds to
    a smaller one.
    """
    if count is None or count == len(images):
        return images, None
    if not 1 <= count <= len(images):
        raise ValueError(
            f"{count} images of {images.description.name}: its {images.description.split} split has {len(images)}; "
            "give a number from 1 to that, or leave it out for all"
        )
    order = sorted(range(len(images)), key=lambda index: derive_random_key(seed, index))
    chosen = sorted(order[:count])
    return ImageSubset(images, np.array(chosen, dtype=np.int64), f"{count} images drawn by seed {seed}"), chosen
