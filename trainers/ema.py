"""The target network: an exponential moving average of the online network's parameters (paper section 7.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_target(target: Sequence[Tensor], online: Sequence[Tensor], momentum: float) -> None:
    """Move every target parameter towards its online one: target ← m · target + (1 − m) · online.

    One fused call for all parameters. Parameters only: buffers such as BatchNorm statistics are the target's own.

    Args:
        target: Parameters to change in place.
        online: Parameters of the same shapes, in the same order.
        momentum: m in [0, 1]; 1 changes nothing.

    Source: paper section 7.4; which tensors take part follows MoBY (Xie et al. 2021).
    """
    torch._foreach_lerp_(list(target), list(online), 1.0 - momentum)


def copy_parameters(source: nn.Module, destination: nn.Module) -> None:
    """Start the target as an exact copy of the online network, parameters and buffers.

    Args:
        source: The online module.
        destination: A module of the same architecture (it may differ in what has no weights, as drop path).
    """
    destination.load_state_dict(source.state_dict())
