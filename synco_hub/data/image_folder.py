"""Folders of images: their files in a fixed order, classes by sub-folders, with or without train and test folders."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.data.decoding import UnreadableImageError, decode_pixels, decode_rgb
from synco_hub.data.image_dataset import UNLABELED, DatasetDescription, ImageDataset, fingerprint

logger = logging.getLogger(__name__)

TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val", "validation")
TEST_SHARE = 0.2
IMAGE_EXTENSIONS = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)


def is_image_name(name: str) -> bool:
    """Whether a file name has an image extension, in any case, and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def list_subfolders(folder: Path) -> list[str]:
    """Names of the visible folders (and links to folders) directly in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def list_image_files(folder: Path) -> list[str]:
    """All images below a folder: sorted paths relative to it with `/` between their parts, hidden ones left out.

    Files are known by their extension; nothing is opened. Links are followed, except where one leads back into a
    folder that contains it.
    """
    return sorted(_walk(os.fspath(folder), "", ()))


def has_images(folder: Path) -> bool:
    """Whether there is an image file at any depth; stops at the first one."""
    for directory, _, files in os.walk(folder):
        if "/." not in directory and any(is_image_name(name) for name in files):
            return True
    return False


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, identity))
            elif is_image_name(entry.name):
                yield prefix + entry.name


class NameTable(Sequence[str]):
    """A read-only list of strings in two buffers.

    A million Python strings would be copied into every worker process, page by page, as soon as their reference
    counts are touched. Two buffers stay shared.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        index = range(len(self))[index]
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._bytes[start : self._ends[index]].tobytes())


class ImageFolderDataset(ImageDataset):
    """Images in files.

    Args:
        root: Folder that the names are relative to.
        names: One relative path per image.
        labels: One class index per image, -1 for unlabeled.
        class_names: In label order.
        split: `train` or `test`.
        split_rule: How the two were told apart.
        multi_hot: For several classes an image. Shape: (num_images, num_classes).
        name: What the data set is called; default: the root's name.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        labels: Sequence[int],
        class_names: Sequence[str],
        split: str,
        split_rule: str,
        multi_hot: npt.NDArray[np.float32] | None = None,
        name: str | None = None,
    ) -> None:
        self.root = root
        self.names = NameTable(names)
        labels_array = np.array(labels, dtype=np.int64)
        description = DatasetDescription(
            name=name or root.name or str(root),
            source=str(root),
            split=split,
            num_images=len(names),
            num_classes=len(class_names),
            split_rule=split_rule,
            fingerprint=fingerprint(
                names, class_names, labels_array if multi_hot is None else multi_hot.astype(np.int64)
            ),
        )
        super().__init__(labels_array, class_names, description)
        self.multi_hot = multi_hot

    def load_image(self, index: int) -> Image.Image:
        """Decodes one file."""
        name = self.names[index]
        return decode_rgb(self.root / name, name, self.value_range)

    def load_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Decodes one file to an array."""
        name = self.names[index]
        return decode_pixels(self.root / name, name, self.value_range)

    def encoded(self, index: int) -> bytes:
        """The file's bytes."""
        name = self.names[index]
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise UnreadableImageError(name, error.strerror or str(error)) from error

    def missing_files(self) -> list[str]:
        """Names that a list has and the folder has not."""
        return [name for name in self.names if not (self.root / name).is_file()]

    def name(self, index: int) -> str:
        """Path relative to the root."""
        return self.names[index]


def load_image_folder(root: str | os.PathLike[str], split: str = "train", seed: int = 0) -> ImageFolderDataset:
    """Reads a folder of images.

    Three layouts are known. `train/` beside `test/`, `val/` or `validation/`: the first of these that has images in
    class folders is the test split. Class folders alone: a fifth of each class, drawn by the seed, is the test split.
    Images without class folders: a training split without labels.

    Args:
        root: The folder.
        split: `train`, `test`, or `all`: every image at any depth, without labels.
        seed: For the drawn split only.

    Returns:
        The images in sorted order.

    Raises:
        ValueError: If the split is unknown, there is no image, the layout has no such split, or the test split has
            classes that the training split lacks.
    """
    root = Path(root).expanduser()
    if split not in ("train", "test", "all"):
        raise ValueError(f"split {split!r} of {root}: a folder has the splits train, test and all; give one of them.")
    folders = list_subfolders(root)
    tests = [name for name in TEST_FOLDERS if name in folders]
    if split == "all":
        names = list_image_files(root)
        dataset = ImageFolderDataset(root, names, [UNLABELED] * len(names), [], split, "all images at any depth")
    elif TRAIN_FOLDER in folders and tests:
        dataset = _from_split_folders(root, tests, split)
    elif tests and set(folders) <= set(TEST_FOLDERS):
        dataset = _from_test_folders(root, tests, split)
    elif folders == [TRAIN_FOLDER] and list_subfolders(root / TRAIN_FOLDER):
        dataset = _from_class_folders(root / TRAIN_FOLDER, split, seed, root.name)
    else:
        dataset = _from_class_folders(root, split, seed, root.name)
    if len(dataset) == 0:
        raise ValueError(
            f"{root} ({split}): no image was found; a folder needs files that end in .jpg, .png or another image "
            "extension, directly or in class sub-folders."
        )
    return dataset


def _list_labeled_files(folder: Path) -> tuple[list[str], list[int], list[str]]:
    """Names, labels and class names of one folder of classes; labels are -1 where there are no class folders."""
    files = list_image_files(folder)
    loose = [name for name in files if "/" not in name]
    in_classes = [name for name in files if "/" in name]
    if not in_classes:
        return loose, [UNLABELED] * len(loose), []
    if loose:
        logger.warning("%s: %d images lie outside the class folders and are left out.", folder, len(loose))
    class_names = sorted({name.split("/", 1)[0] for name in in_classes})
    empty = [name for name in list_subfolders(folder) if name not in set(class_names)]
    if empty:
        logger.warning("%s: no image in %s; %d folders are no class.", folder, ", ".join(empty[:10]), len(empty))
    index = {name: number for number, name in enumerate(class_names)}
    return in_classes, [index[name.split("/", 1)[0]] for name in in_classes], class_names


def _from_split_folders(root: Path, tests: list[str], split: str) -> ImageFolderDataset:
    """`train/` beside a test folder: labels follow the class names of `train/`."""
    names, labels, class_names = _list_labeled_files(root / TRAIN_FOLDER)
    test_folder, rule = choose_test_folder(root, tests)
    rule = f"folder {TRAIN_FOLDER}/ for train, {rule}"
    if split == "train":
        return ImageFolderDataset(root / TRAIN_FOLDER, names, labels, class_names, split, rule, name=root.name)
    test_names, test_labels, test_classes = _list_labeled_files(root / test_folder)
    unknown = sorted(set(test_classes) - set(class_names))
    if unknown and class_names:
        raise ValueError(
            f"{root / test_folder}: {len(unknown)} classes are not in {TRAIN_FOLDER}/ ({', '.join(unknown[:5])}); "
            "both folders need the same class sub-folders."
        )
    index = {name: number for number, name in enumerate(class_names or test_classes)}
    labels = [index[test_classes[label]] if label != UNLABELED else UNLABELED for label in test_labels]
    return ImageFolderDataset(root / test_folder, test_names, labels, list(index), split, rule, name=root.name)


def choose_test_folder(root: Path, tests: list[str]) -> tuple[str, str]:
    """The first test folder with class folders: the official test images of many sets come without labels."""
    chosen = next((name for name in tests if list_subfolders(root / name)), tests[0])
    others = [name for name in tests if name != chosen]
    unused = f" ({', '.join(name + '/' for name in others)} unused)" if others else ""
    return chosen, f"folder {chosen}/ for test{unused}"


def _from_test_folders(root: Path, tests: list[str], split: str) -> ImageFolderDataset:
    test_folder, rule = choose_test_folder(root, tests)
    if split == "train":
        raise ValueError(
            f"{root} has {test_folder}/ but no {TRAIN_FOLDER}/; give a folder with both, or {root / test_folder} "
            "itself to have it split."
        )
    labeled = _list_labeled_files(root / test_folder)
    return ImageFolderDataset(root / test_folder, *labeled, split=split, split_rule=rule, name=root.name)


def _from_class_folders(root: Path, split: str, seed: int, name: str) -> ImageFolderDataset:
    """One folder for all: class folders are divided, loose images are for training only."""
    names, labels, class_names = _list_labeled_files(root)
    if not class_names:
        if names and split == "test":
            raise ValueError(
                f"{root}: its images lie in no class sub-folders, so there is no labeled test split; use it for "
                "pretraining, or sort the images into one sub-folder per class."
            )
        return ImageFolderDataset(root, names, labels, [], split, "no class folders: all images are for training")
    is_test = draw_stratified_test_mask(names, labels, seed)
    kept = np.flatnonzero(is_test if split == "test" else ~is_test)
    rule = (
        f"seeded stratified split (seed {seed}): {TEST_SHARE:.0%} of each class, {int(is_test.sum())} of {len(names)} "
        "images, are the test split"
    )
    return ImageFolderDataset(
        root, [names[k] for k in kept], [labels[k] for k in kept], class_names, split, rule, name=name
    )


def draw_stratified_test_mask(names: Sequence[str], labels: Sequence[int], seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """True for the test images: a fifth of each class, rounded, at least one where a class has two images, never all.

    A hash of seed and name chooses them rather than a random generator: the choice is the same with every library
    version, and one more file moves at most one other file across.
    """
    order = [hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest() for name in names]
    of_class: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        of_class.setdefault(label, []).append(position)
    mask = np.zeros(len(names), dtype=bool)
    for positions in of_class.values():
        positions.sort(key=order.__getitem__)
        count = max(1, round(TEST_SHARE * len(positions))) if len(positions) > 1 else 0
        mask[positions[:count]] = True
    return mask
