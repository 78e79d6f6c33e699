"""Which output of a classifier stands for which class of ImageNet, or of one of its 200-class subsets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synco_hub.data.class_lists import class_list, imagenet_indices

IMAGENET = "imagenet_1k"


def class_columns(class_names: Sequence[str], list_name: str = IMAGENET) -> Tensor:
    """Find the outputs of a classifier for the classes of a list.

    Names that are wnids are looked up, so that their order does not matter and further classes do no harm. With other
    names a classifier of 1000 outputs is taken to follow the sorted wnids, as ImageNet classifiers do.

    Args:
        class_names: The classifier's, in the order of its outputs.
        list_name: A vendored list, such as ``imagenet_1k`` or ``imagenet_a``.

    Returns:
        Output of each class of the list. Shape: (num_classes of the list,).

    Raises:
        ValueError: If the classifier does not have every class of the list.
    """
    wanted = class_list(list_name)
    output = {name: index for index, name in enumerate(class_names)}
    found = [wnid for wnid in wanted if wnid in output]
    if len(found) == len(wanted):
        return torch.tensor([output[wnid] for wnid in wanted])
    if found or len(class_names) != len(class_list(IMAGENET)):
        missing = [wnid for wnid in wanted if wnid not in output]
        raise ValueError(
            f"the classifier's {len(class_names)} classes cover {len(found)} of the {len(wanted)} of {list_name} "
            f"(missing: {', '.join(missing[:3])}…): give a linear classifier that was trained on clean ImageNet-1k "
            "(`synco-hub linear-probe --dataset imagenet-1k`)"
        )
    return torch.tensor(imagenet_indices(list_name))
