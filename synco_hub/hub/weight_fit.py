"""Whether weights fit a configuration, told from shapes alone: no number is read, and nothing of their size is built.

Anybody can write any number into a configuration; only the tensors of a file are paid for in bytes. So what a file
claims about its network is compared with what it holds before memory is taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from synco_hub.models import SynCoConfig, SynCoModel

Shapes = dict[str, tuple[int, ...]]

_SHOWN = 20
# Buffers that no file holds (Swin's window indices) grow with the window alone; a window of 24 needs 2^23 numbers.
_MOST_BUFFER_NUMBERS = 1 << 28


def check_depth(depth: Any, num_tensors: int) -> None:
    """Refuse more blocks than there are tensors, of which every block has several.

    Args:
        depth: What a configuration says: blocks, or blocks of each stage.
        num_tensors: How many tensors there are.

    Raises:
        ValueError: If it is no such number, or larger than the weights can fill.
    """
    stages = depth if isinstance(depth, (list, tuple)) else [depth]
    if not all(type(blocks) is int for blocks in stages):
        raise ValueError(f"depth={depth!r:.60} is neither a whole number nor a list of them.")
    if max(len(stages), *stages, sum(stages)) > num_tensors:
        raise ValueError(f"depth={depth!r:.60} needs more weights than the {num_tensors} tensors that are there.")


def expected_shapes(config: SynCoConfig, num_tensors: int, model_class: Any = SynCoModel) -> Shapes:
    """What a network of this configuration is made of.

    Args:
        config: The configuration.
        num_tensors: How many tensors there are to fill it.
        model_class: The model, built without its numbers.

    Returns:
        Key of the state dict to shape.

    Raises:
        ValueError: If it has more blocks than tensors, or no such network can be built.
    """
    check_depth(config.depth, num_tensors)
    try:
        with torch.device("meta"):
            model = model_class(config)
    except (RuntimeError, TypeError, OverflowError, AttributeError) as error:  # as timm and torch refuse numbers
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"no network of this configuration can be built ({reason}): correct its numbers.") from error
    if (numbers := sum(buffer.numel() for buffer in model.buffers())) > _MOST_BUFFER_NUMBERS:
        raise ValueError(f"window_size={config.window_size} needs {numbers} indices beside the weights: too many.")
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def misfit(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """What is missing, left over and wrong-shaped, first keys of each; empty if everything fits.

    Args:
        wanted: Key to shape of the network.
        found: Key to shape of the weights.
    """
    faults = {
        "missing": sorted(set(wanted) - set(found)),
        "left over": sorted(set(found) - set(wanted)),
        "wrong-shaped": [
            f"{key} {found[key]} instead of {wanted[key]}"
            for key in sorted(set(found) & set(wanted))
            if found[key] != wanted[key]
        ],
    }
    return "; ".join(
        f"{len(keys)} {fault}: {', '.join(keys[:_SHOWN])}{' …' if len(keys) > _SHOWN else ''}"
        for fault, keys in faults.items()
        if keys
    )
