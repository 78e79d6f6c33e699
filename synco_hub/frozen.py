"""A network as evaluation needs it for a while: in eval mode, on a device, and afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen(network: nn.Module, device: torch.device | str | None = None) -> Iterator[nn.Module]:
    """Yield the network in eval mode on a device; put training flags and device back, also after an error.

    Gradients are the caller's business: wrap the forward pass in ``torch.no_grad()`` or ``torch.inference_mode()``.

    Args:
        network: Any module with parameters.
        device: Where it runs; None for where it is.

    Yields:
        The same network.
    """
    # Module by module: a frozen BatchNorm inside a training network must not come back in training mode.
    training = [(module, module.training) for module in network.modules()]
    home = next(network.parameters()).device
    try:
        network.eval()
        if device is not None:
            network.to(device)
        yield network
    finally:
        if device is not None:
            network.to(home)
        for module, flag in training:
            module.training = flag
