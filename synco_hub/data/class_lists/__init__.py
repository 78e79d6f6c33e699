"""The classes of ImageNet and of its subsets as lists of wnids, and of further sets as lists of names.

`imagenet_1k`, `imagenet_a`, `imagenet_r` and `imagenet_o` are sorted: a wnid's line less one is its label.
`imagenet_100` keeps the order of CMC's list, which is the label order of its copies. The others are in the label order
of their authors' files, spelled as there; Flowers-102 has no names in its files, its order is that of the labels.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

CLASS_LISTS = {
    "imagenet_1k": "imagenet_1k.txt",
    "imagenet_100": "imagenet_100.txt",
    "imagenet_a": "imagenet_a.txt",
    "imagenet_r": "imagenet_r.txt",
    "imagenet_o": "imagenet_o.txt",
    "cifar10": "cifar10.txt",
    "cifar100": "cifar100.txt",
    "dtd": "dtd.txt",
    "fashion_mnist": "fashion_mnist.txt",
    "flowers102": "flowers102.txt",
    "oxford_pets": "oxford_pets.txt",
    "voc2007": "voc2007.txt",
}


@cache
def read_class_list(name: str) -> tuple[str, ...]:
    """The wnids or names of one list, in label order."""
    if name not in CLASS_LISTS:
        raise ValueError(f"class list {name!r} is unknown: use one of {', '.join(CLASS_LISTS)}.")
    return tuple((Path(__file__).parent / CLASS_LISTS[name]).read_text(encoding="utf-8").splitlines())


def imagenet_indices(name: str) -> list[int]:
    """Where the classes of a list stand among the 1000 of ImageNet: the logits to keep for a subset."""
    position = {wnid: index for index, wnid in enumerate(read_class_list("imagenet_1k"))}
    return [position[wnid] for wnid in read_class_list(name)]
