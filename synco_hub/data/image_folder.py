"""Folders of images: their files in a fixed order, classes by folders or metadata, with or without split folders."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.data.decoding import UnreadableImageError, decode_pixels, decode_rgb
from synco_hub.data.folder_files import list_subfolders
from synco_hub.data.folder_layout import (
    FolderLayout,
    below,
    choose_test_folder,
    list_training_images,
    printable,
    read_layout,
    say_untrained_classes,
    warn_once,
)
from synco_hub.data.folder_splits import SplitFolders, are_abbreviations, find_split_kind
from synco_hub.data.image_dataset import UNLABELED, DatasetDescription, ImageDataset, fingerprint

PRETRAINING = "pretraining"
TEST_SHARE = 0.2


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
        split: `train`, `test`, or a name that says what the images are for.
        split_rule: How the two were told apart.
        multi_hot: For several classes an image. Shape: (num_images, num_classes).
        name: What the data set is called; default: the root's name.

    Attributes:
        root: As given.
        names: As given.
        multi_hot: As given.
        num_found: Images that the folder holds in all, whatever they are for.
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
            name=printable(name or root.name or str(root)),
            source=printable(str(root)),
            split=split,
            num_images=len(names),
            num_classes=len(class_names),
            split_rule=split_rule,
            fingerprint=fingerprint(
                names, class_names, labels_array if multi_hot is None else multi_hot.astype(np.int64)
            ),
        )
        super().__init__(labels_array, map(printable, class_names), description)
        self.multi_hot = multi_hot
        self.num_found = len(names)

    def load_image(self, index: int) -> Image.Image:
        """Decodes one file."""
        return decode_rgb(self.root / self.names[index], self.name(index), self.value_range)

    def load_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Decodes one file to an array."""
        return decode_pixels(self.root / self.names[index], self.name(index), self.value_range)

    def encoded(self, index: int) -> bytes:
        """The file's bytes."""
        try:
            return (self.root / self.names[index]).read_bytes()
        except OSError as error:
            raise UnreadableImageError(self.name(index), error.strerror or str(error)) from error

    def missing_files(self) -> list[str]:
        """Names that a list has and the folder has not."""
        return [name for name in self.names if not (self.root / name).is_file()]

    def name(self, index: int) -> str:
        """Path relative to the root, printable."""
        return printable(self.names[index])

    def file_names(self) -> list[str]:
        """Paths relative to the root, as they are on the disk."""
        return list(self.names)


def load_image_folder(
    root: str | os.PathLike[str], split: str = "train", seed: int = 0, label_column: str | None = None
) -> ImageFolderDataset:
    """Reads a folder of images.

    Three layouts are known. Folders of training images beside folders of test images, in any usual spelling (`train`,
    `Training`, `val2017`, `dev`, …): the first test folder that has labels is the test split. Class folders alone: a
    fifth of each class, drawn by the seed, is the test split. Images without classes: a training split without labels.
    A single folder that holds all of this, such as `images/`, is entered.

    A class is a folder, or what `metadata.csv`, `metadata.jsonl` or `metadata.parquet` says of a `file_name`. All
    splits have one list of classes.

    Args:
        root: The folder.
        split: `train`, `test`, `pretraining`: every image that is in no test folder, with or without a class, or
            `all`: every image at any depth, without labels.
        seed: For the drawn split only.
        label_column: Column of the classes in the metadata; None takes `label` or another usual name.

    Returns:
        The images in sorted order.

    Raises:
        ValueError: If the split is unknown, there is no image, the layout has no such split, training and test
            images have no class in common, or a label column is named that no metadata has.
    """
    root = Path(root).expanduser()
    if split not in ("train", "test", "all", PRETRAINING):
        raise ValueError(
            f"split {split!r} of {root}: a folder has the splits train, test, {PRETRAINING} and all; give one of them."
        )
    layout = read_layout(root, label_column)
    if split == "all":
        names = layout.files.images
        dataset = ImageFolderDataset(root, names, [UNLABELED] * len(names), [], split, "all images at any depth")
    elif split == PRETRAINING:
        dataset = _take_for_pretraining(layout, seed)
    elif layout.splits is None:
        dataset = _divide(layout, layout.files.images, (), split, seed)
    else:
        dataset = _take_split(layout, layout.splits, split, seed)
    if len(dataset) == 0:
        raise ValueError(f"{root} ({split}): {_say_what_lies_there(layout)}")
    return dataset


def _say_what_lies_there(layout: FolderLayout) -> str:
    if layout.files.images:
        return f"no image was found for this split; all {len(layout.files.images)} images lie in other folders."
    there = layout.files.describe_others()
    return (
        f"no image was found{f' among {there}' if there else ''}; a folder needs files that end in .jpg, .png or "
        "another image extension, directly or in class sub-folders."
    )


def _take(
    layout: FolderLayout, names: Sequence[str], folders: Sequence[str], split: str, rule: str
) -> ImageFolderDataset:
    """A data set of some images; its names are relative to the one folder that holds them, else to the base."""
    place = layout.place(*folders)
    begin = len(layout.base) + (len(folders[0]) + 1 if len(folders) == 1 else 0)
    index: dict[str | None, int] = {name: number for number, name in enumerate(layout.class_names)}
    dataset = ImageFolderDataset(
        place,
        [name[begin:] for name in names],
        [index.get(layout.class_of[name], UNLABELED) for name in names],
        layout.class_names,
        split,
        rule,
        name=layout.root.name,
    )
    dataset.num_found = len(layout.files.images)
    return dataset


def _warn_of_empty_classes(layout: FolderLayout, *folders: str) -> None:
    place = layout.place(*folders)
    if not layout.class_names or layout.files.metadata or not place.is_dir():
        return
    known = {printable(name) for name in layout.class_names}
    empty = [name for name in list_subfolders(place) if printable(name) not in known]
    begin = str(place.relative_to(layout.root)) + "/" if place != layout.root else ""
    empty = [name for name in empty if not below(layout.files.images, f"{begin}{name}/")]
    if empty:
        warn_once(f"{place}: no image in {', '.join(empty[:10])}; {len(empty)} folders are no class.")


def _take_split(layout: FolderLayout, splits: SplitFolders, split: str, seed: int) -> ImageFolderDataset:
    """Training or test images of a folder with split folders."""
    names = list_training_images(layout, splits)
    train = () if splits.classes_beside else splits.train
    _warn_of_left_out(layout, splits)
    if not splits.tests:
        # With the names of pretraining, so that it can keep out what is drawn for the test.
        return _divide(layout, names, () if splits.unlabeled else train, split, seed)
    chosen, rule = choose_test_folder(layout, splits)
    if not names and not splits.train:
        if split != "test":
            raise ValueError(
                f"{layout.root} has {chosen}/ but no train/; give a folder with both, or {layout.place(chosen)} "
                "itself to have it split."
            )
        tested = below(layout.files.images, f"{layout.base}{chosen}/")
        return _take(layout, layout.labeled(tested, chosen), (chosen,), split, rule)
    where = f"folder {' and '.join(f'{name}/' for name in train)}" if train else "the class folders beside it"
    rule = f"{where} for train, {rule}"
    tested = below(layout.files.images, f"{layout.base}{chosen}/")
    _check_common_classes(layout, names, tested, chosen, split)
    _warn_of_empty_classes(layout, *(train if split == "train" else (chosen,)))
    if split == "train":
        return _take(layout, layout.labeled(names, *train), train, split, rule)
    return _take(layout, layout.labeled(tested, chosen), (chosen,), split, rule)


def _check_common_classes(
    layout: FolderLayout, trained: Sequence[str], tested: Sequence[str], chosen: str, split: str
) -> None:
    known = {layout.class_of[name] for name in trained} - {None}
    unknown = sorted(printable(name) for name in {layout.class_of[path] for path in tested} - known if name)
    if not known or not unknown:
        return
    some = f"{', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}"
    if split == "test" and known.isdisjoint({layout.class_of[path] for path in tested}):
        raise ValueError(
            f"{layout.place(chosen)}: none of its {len(unknown)} classes is among those of the training images "
            f"({some}); both need the same class sub-folders."
        )
    say_untrained_classes(printable(str(layout.place(chosen))), unknown)


def _warn_of_left_out(layout: FolderLayout, splits: SplitFolders) -> None:
    for name in () if splits.classes_beside else splits.others:
        count = len(below(layout.files.images, f"{layout.base}{name}/"))
        if count:
            warn_once(
                f"{layout.place(name)}: {count} images lie in no split folder and are left out; to train on them, "
                "move them below the training images, or call their folder unlabeled."
            )


def _warn_of_classes_alike(layout: FolderLayout) -> None:
    """Splits that are called otherwise hold the same folders each."""
    if layout.splits is not None or layout.files.metadata or len(layout.class_names) < 2:
        return
    inside = [set(list_subfolders(layout.place(name))) for name in set(layout.class_of.values()) if name is not None]
    shared = sorted(set.intersection(*inside))
    if len(shared) > 1:
        warn_once(
            f"{layout.root}: {', '.join(layout.class_names[:5])} are read as classes, and all hold folders of the "
            f"same names ({', '.join(map(printable, shared[:5]))}): if they are splits, call them train and test."
        )


def _divide(
    layout: FolderLayout, names: Sequence[str], folders: Sequence[str], split: str, seed: int
) -> ImageFolderDataset:
    """One folder for both splits: classes are divided, images without a class are for training only."""
    _warn_of_empty_classes(layout, *folders)
    for name in layout.class_names:
        is_split = find_split_kind(name) is not None or are_abbreviations(layout.class_names)
        if not layout.files.metadata and is_split and layout.splits is None:
            warn_once(
                f"{layout.root}: {name}/ is read as a class like the folders beside it; as a split it would hold "
                "class folders, or lie beside its counterpart (train/, test/)."
            )
    _warn_of_classes_alike(layout)
    names = layout.labeled(names, *folders)
    if not layout.class_names:
        if names and split == "test":
            raise ValueError(
                f"{layout.root}: its images lie in no class sub-folders, so there is no labeled test split; use it "
                "for pretraining or `synco-hub embed`, or sort the images into one sub-folder per class."
            )
        return _take(layout, names, folders, split, "no class folders: all images are for training")
    whole = _take(layout, names, folders, split, "")
    is_test = draw_stratified_test_mask(list(whole.names), whole.labels.tolist(), seed)
    if split == "test" and not is_test.any():
        raise ValueError(
            f"{layout.root}: none of its {len(layout.class_names)} classes has a second image, so that none can be "
            "set apart for a test split; give more images of a class, or a folder test/ beside train/."
        )
    kept = np.flatnonzero(is_test if split == "test" else ~is_test)
    return _take(layout, [names[k] for k in kept], folders, split, say_drawn_split(is_test, seed))


def say_drawn_split(is_test: npt.NDArray[np.bool_], seed: int) -> str:
    """The rule of a split that was drawn."""
    drawn = f"{TEST_SHARE:.0%} of each class, {int(is_test.sum())} of {len(is_test)} images, are the test split"
    return f"seeded stratified split (seed {seed}): {drawn}"


def _take_for_pretraining(layout: FolderLayout, seed: int) -> ImageFolderDataset:
    """Every image that is in no test folder: what labels are needed for is not held out."""
    splits = layout.splits
    if splits is None:
        if not layout.class_names:
            return _divide(layout, layout.files.images, (), "train", seed)
        return _take(
            layout, layout.files.images, (), PRETRAINING, "all images; labels and a test split are not needed"
        )
    train = list_training_images(layout, splits)
    if not train and not splits.unlabeled:
        return _take_split(layout, splits, "train", seed)
    _warn_of_left_out(layout, splits)
    more = [name for each in splits.unlabeled for name in below(layout.files.images, f"{layout.base}{each}/")]
    more += [name for name in below(layout.files.images, layout.base) if "/" not in name[len(layout.base) :]]
    labeled = {name for name in train if layout.class_of[name] is not None}
    if splits.tests and not more and len(labeled) in (0, len(train)):
        return _take_split(layout, splits, "train", seed)
    taken = {*train, *more}
    parts = [*(splits.others if splits.classes_beside else splits.train), *splits.unlabeled]
    rule = f"all images of {', '.join(f'{name}/' for name in parts)}"
    if any("/" not in name[len(layout.base) :] for name in more):
        rule += " and beside them"
    if splits.tests:
        rule += f"; not those of {', '.join(f'{name}/' for name in splits.tests)}"
    folders = () if more or splits.classes_beside else splits.train
    return _take(layout, [name for name in layout.files.images if name in taken], folders, PRETRAINING, rule)


def draw_stratified_test_mask(
    names: Sequence[str], labels: Sequence[int], seed: int, share: float = TEST_SHARE
) -> npt.NDArray[np.bool_]:
    """True for the test images: a share of each class, rounded, at least one where a class has two images, never all.

    A hash of seed and name chooses them rather than a random generator: the choice is the same with every library
    version, and one more file moves at most one other file across.
    """
    mask = np.zeros(len(names), dtype=bool)
    for positions in _shuffle_classes(names, labels, seed):
        count = max(1, round(share * len(positions))) if len(positions) > 1 else 0
        mask[positions[: min(count, len(positions) - 1)]] = True
    return mask


def draw_evenly(names: Sequence[str], labels: Sequence[int], seed: int, count: int) -> npt.NDArray[np.bool_]:
    """True for so many images in all, of each class about as large a share, chosen by the same hash."""
    ranked = [
        ((place + 0.5) / len(positions), position)
        for positions in _shuffle_classes(names, labels, seed)
        for place, position in enumerate(positions)
    ]
    mask = np.zeros(len(names), dtype=bool)
    mask[[position for _, position in sorted(ranked)[:count]]] = True
    return mask


def _shuffle_classes(names: Sequence[str], labels: Sequence[int], seed: int) -> list[list[int]]:
    """Positions of the images of each class, in the order of a hash."""
    order = [hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest() for name in names]
    of_class: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        of_class.setdefault(label, []).append(position)
    return [sorted(positions, key=order.__getitem__) for positions in of_class.values()]
