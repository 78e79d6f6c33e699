"""The classes of ImageNet and of its subsets, as lists of wnids.

`imagenet_1k`, `imagenet_a`, `imagenet_r` and `imagenet_o` are sorted: a wnid's line less one is its label.
`imagenet_100` keeps the order of CMC's list, which is the label order of its copies.
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
}


@cache
def class_list(name: str) -> tuple[str, ...]:
    """The wnids of one list, in label order.

    Args:
        name: A key of `CLASS_LISTS`.

    Raises:
        ValueError: If there is no such list.
    """
    if name not in CLASS_LISTS:
        raise ValueError(f"class list {name!r} is unknown: use one of {', '.join(CLASS_LISTS)}.")
    return tuple((Path(__file__).parent / CLASS_LISTS[name]).read_text(encoding="utf-8").split())


def imagenet_indices(name: str) -> list[int]:
    """Where the classes of a list stand among the 1000 of ImageNet: the logits to keep for a subset.

    Args:
        name: A key of `CLASS_LISTS`.

    Raises:
        ValueError: If there is no such list.
    """
    position = {wnid: index for index, wnid in enumerate(class_list("imagenet_1k"))}
    return [position[wnid] for wnid in class_list(name)]
