"""Every tensor or none: what is missing, left over, wrong-shaped or spoilt is an error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from synco_hub.errors import escape
from synco_hub.hub.weight_fit import misfit


def load_strictly(module: nn.Module, found: Mapping[str, Any], what: str) -> None:
    """Load tensors, every one of them and no other.

    Args:
        module: What takes them.
        found: Key to tensor.
        what: What to call it in an error.

    Raises:
        ValueError: Listing missing, superfluous and wrong-shaped keys, or those that are not finite.
    """
    wanted = module.state_dict()
    refuse_misfit({key: tuple(value.shape) for key, value in wanted.items()}, found, what)
    read = {key: finite(key, value) for key, value in found.items()}
    module.load_state_dict({key: value.to(wanted[key].dtype) for key, value in read.items()})


def refuse_misfit(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Any], what: str) -> None:
    """Refuse tensors that are not those of a network.

    Args:
        wanted: Key to shape of the network.
        found: Key to tensor.
        what: What to call it in an error.

    Raises:
        ValueError: Listing missing, superfluous and wrong-shaped keys.
    """
    if fault := misfit(wanted, {key: tuple(value.shape) for key, value in found.items()}):
        raise ValueError(
            f"The tensors of {what} do not fit ({fault}). Nothing was written: give the right --layout, --backbone, "
            "--image-size or file."
        )


def finite(key: str, tensor: Tensor) -> Tensor:
    """The tensor itself.

    Raises:
        ValueError: If it holds NaN or infinities.
    """
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{escape(key)} holds NaN or infinite numbers: the file is spoilt, nothing was written.")
    return tensor
