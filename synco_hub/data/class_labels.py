"""Which label, and which output of a classifier, stands for which class: by wnid, or by place in a list of wnids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synco_hub.data.class_lists import imagenet_indices, read_class_list
from synco_hub.data.image_dataset import UNLABELED, ImageDataset


def share_class_names(splits: Iterable[ImageDataset]) -> None:
    """Gives the splits of one data set one list of classes, where theirs differ, so that a class has one number.

    All names that occur, sorted; whole numbers by their value. Splits without classes, and those whose images can
    have several, are left alone.
    """
    single = [images for images in splits if images.num_classes and images.multi_hot is None]
    if len({tuple(images.class_names) for images in single}) < 2:
        return
    names = {name for images in single for name in images.class_names}
    ordered = sorted(names, key=int) if all(map(str.isdecimal, names)) else sorted(names)
    position = {name: number for number, name in enumerate(ordered)}
    for images in single:
        shared = np.array([*(position[name] for name in images.class_names), UNLABELED], dtype=np.int64)
        images.labels = shared[images.labels]  # the last entry stands for -1
        images.class_names = list(ordered)
        images.description = replace(images.description, num_classes=len(ordered))


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
