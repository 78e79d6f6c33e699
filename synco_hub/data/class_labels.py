"""Which label, and which output of a classifier, stands for which class: by name, or by place in a list of wnids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synco_hub.data.class_lists import imagenet_indices, read_class_list
from synco_hub.data.folder_layout import say_untrained_classes
from synco_hub.data.image_dataset import UNLABELED, ImageDataset


def share_class_names(splits: Iterable[ImageDataset]) -> None:
    """Gives the splits of one data set one list of classes, where theirs differ, so that a class has one number.

    All names that occur, sorted; whole numbers by their value. Splits without classes, and those whose images can
    have several, are left alone.
    """
    single = [images for images in splits if images.num_classes and images.multi_hot is None]
    if len({tuple(images.class_names) for images in single}) < 2:
        return
    names = _sort_names((name for images in single for name in images.class_names), True)
    for images in single:
        renumber(images, names)


def map_labels_to_list(
    labels: npt.NDArray[np.int64], stored_names: Sequence[str], wnids: Sequence[str], source: str
) -> npt.NDArray[np.int64]:
    """Stored labels (-1 for unlabeled) as positions in a list of wnids; `source` names the data in an error.

    Names that are wnids are looked up, so that their order does not matter. Names that are whole numbers are labels
    themselves, as in the folders of ImageNet-V2, where 100 sorts before 2. With other names, such as "bonnet", the
    stored labels are taken to follow the list, which needs one name for each of its classes.
    """
    if any(_is_wnid(name) for name in stored_names):
        index = {wnid: position for position, wnid in enumerate(wnids)}
        strangers = [name for name in stored_names if name not in index]
        if strangers:
            raise ValueError(
                f"{source}: {len(strangers)} of {len(stored_names)} classes are not among the {len(wnids)} of this "
                f"set ({', '.join(strangers[:3])}); check that it is the folder or the copy of this set."
            )
        position = np.array([index[name] for name in stored_names], dtype=np.int64)
    elif all(name.isdecimal() for name in stored_names):
        position = np.array([int(name) for name in stored_names], dtype=np.int64)
        if position.max(initial=UNLABELED) >= len(wnids):
            raise ValueError(
                f"{source}: label {position.max()} is beyond the {len(wnids)} classes of this set; check that it is "
                "the folder or the copy of this set."
            )
    elif len(stored_names) == len(wnids):
        position = np.arange(len(wnids), dtype=np.int64)
    else:
        raise ValueError(
            f"{source}: {len(stored_names)} classes ({', '.join(stored_names[:3])}) where this set has {len(wnids)}; "
            "name the classes by wnid, or check that it is the folder or the copy of this set."
        )
    labels = np.asarray(labels, dtype=np.int64)
    if not len(position):
        return labels
    translated: npt.NDArray[np.int64] = np.where(labels == UNLABELED, UNLABELED, position[labels])
    return translated


def _is_wnid(name: str) -> bool:
    """An `n` and eight digits, as WordNet numbers its nouns."""
    return len(name) == 9 and name[0] == "n" and name[1:].isdecimal()


IMAGENET = "imagenet_1k"


def find_class_columns(class_names: Sequence[str], list_name: str = IMAGENET) -> Tensor:
    """The output of a classifier for each class of a vendored list, such as `imagenet_1k` or `imagenet_a`.

    Names that are wnids are looked up, so that their order does not matter and further classes do no harm. With other
    names a classifier of 1000 outputs is taken to follow the sorted wnids, as ImageNet classifiers do.
    """
    wanted = read_class_list(list_name)
    output = {name: index for index, name in enumerate(class_names)}
    found = [wnid for wnid in wanted if wnid in output]
    if len(found) == len(wanted):
        return torch.tensor([output[wnid] for wnid in wanted])
    if found or len(class_names) != len(read_class_list(IMAGENET)):
        missing = [wnid for wnid in wanted if wnid not in output]
        raise ValueError(
            f"the classifier's {len(class_names)} classes cover {len(found)} of the {len(wanted)} of {list_name} "
            f"(missing: {', '.join(missing[:3])}…): give a linear classifier that was trained on clean ImageNet-1k "
            "(`synco-hub linear-probe --dataset imagenet-1k`)"
        )
    return torch.tensor(imagenet_indices(list_name))


def number_alike(train: ImageDataset, test: ImageDataset) -> None:
    """Gives two sets of images one list of classes by name, where theirs are the same in another order.

    A table that does not name its classes may lack some: it takes the list of the other side if that has all of its
    own, and two such tables take the classes of both. Other lists stay as they are, and are no splits of one data set.
    """
    ours, theirs = train.class_names, test.class_names
    if ours == theirs or not ours or not theirs:
        return
    from_rows = _is_named_from_rows(train), _is_named_from_rows(test)
    if all(from_rows):
        names = _sort_names([*ours, *theirs], all(list(side) == _sort_names(side, True) for side in (ours, theirs)))
    elif set(theirs) == set(ours) or (from_rows[1] and set(theirs) <= set(ours)):
        names = list(ours)
    elif from_rows[0] and set(ours) <= set(theirs):
        names = list(theirs)
    else:
        return
    for side in (train, test):
        renumber(side, names)


def warn_of_untrained_classes(train: ImageDataset, test: ImageDataset) -> None:
    """Says which classes of the test images no training image has; both have one list of classes."""
    if train.class_names == test.class_names and train.multi_hot is None and test.multi_hot is None:
        unknown = np.setdiff1d(test.labels, [*train.labels, UNLABELED])
        say_untrained_classes(test.description.source, [test.class_names[number] for number in unknown])


def number_by_head(images: ImageDataset, head: Sequence[str]) -> None:
    """Gives the classes of images the numbers that they have in a classifier, where it has all of them.

    A classifier without names (`LABEL_0`, …) has its numbers for names; images whose ids are among them follow.
    """
    names = list(head)
    if not is_named(names):
        ids = {str(number) for number in range(len(names))}
        if not (_is_named_from_rows(images) and set(images.class_names) <= ids):
            return
        names = [str(number) for number in range(len(names))]
    if images.class_names and images.class_names != names and set(images.class_names) <= set(names):
        renumber(images, names)


def take_recorded_numbers(images: ImageDataset, recorded: Mapping[str, Any] | None) -> None:
    """Numbers ids with gaps as they are, where a run began so: earlier versions counted every id below the highest."""
    count = int((recorded or {}).get("num_classes", 0))
    names = [str(number) for number in range(count)]
    if images.num_classes < count and _is_named_from_rows(images) and set(images.class_names) <= set(names):
        renumber(images, names)


def is_named(head: Sequence[str]) -> bool:
    """Whether a classifier says what its outputs are."""
    return any(name != f"LABEL_{index}" for index, name in enumerate(head))


def renumber(images: ImageDataset, class_names: Sequence[str]) -> None:
    """Gives the classes of images, by their names, the places in another list, which has all of them."""
    position = {name: number for number, name in enumerate(class_names)}
    places = np.array([position[name] for name in images.class_names] + [UNLABELED], dtype=np.int64)
    if images.multi_hot is not None:
        rows = np.zeros((len(images), len(class_names)), dtype=images.multi_hot.dtype)
        rows[:, places[:-1]] = images.multi_hot
        images.multi_hot = rows
    images.labels = places[images.labels]  # an unlabeled image takes the last entry, which is -1
    images.class_names = list(class_names)
    images.description = replace(images.description, num_classes=len(class_names))


def _sort_names(names: Iterable[str], as_numbers: bool) -> list[str]:
    """Each name once, in order; numbers as such where all are."""
    distinct = set(names)
    if as_numbers and all(name.removeprefix("-").isdecimal() for name in distinct):
        return sorted(distinct, key=int)
    return sorted(distinct)


def _is_named_from_rows(images: Any) -> bool:
    """Whether the classes are those that occur in the rows of a table, also of a part of one."""
    while not hasattr(images, "names_from_rows") and hasattr(images, "images"):
        images = images.images
    return bool(getattr(images, "names_from_rows", False))
