"""The keys of a ViT's last self-attention, on the grid of its patches: what LOST and TokenCut look at."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from synco_hub.feature_adapter import feature_network
from synco_hub.frozen import frozen
from synco_hub.visualization.last_attention import attends_in_windows, forward_any_size, patch_grid


def last_keys(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """Run the model once and return the keys of its last block, heads side by side.

    Args:
        model: A vision transformer with global attention that runs fused (``sdpa``), with or without a head.
        pixel_values: Preprocessed images of whole patches. Shape: (batch, channels, height, width).

    Returns:
        float32, prefix tokens left out. Shape: (batch, rows, columns, dim).

    Raises:
        ValueError: If the model attends in windows (Swin), cannot take this image size, or its attention is not
            fused, so that its keys are not to be seen.
    """
    network = feature_network(model)
    if attends_in_windows(network):
        raise ValueError(
            f"{type(network).__name__} is a Swin, whose last keys belong to windows: LOST and TokenCut need the keys "
            "of a vision transformer with global attention"
        )
    grid = patch_grid(network, pixel_values)
    with frozen(network), torch.no_grad(), _RecordedKeys() as recorded:
        forward_any_size(network, pixel_values)
    if recorded.last is None or len(recorded.last) != len(pixel_values):
        raise ValueError(
            f"no fused attention over all tokens was seen in {type(network).__name__}: load the model with "
            "attn_implementation='sdpa'"
        )
    keys = recorded.last.float().transpose(1, 2).flatten(2)  # (batch, tokens, dim)
    patches = math.prod(grid)
    if keys.shape[1] < patches:
        raise ValueError(
            f"{type(network).__name__} attends over {keys.shape[1]} tokens, fewer than its {grid[0]}x{grid[1]} "
            "patches: give a model that keeps all its patches"
        )
    return keys[:, -patches:].unflatten(1, grid)


class _RecordedKeys(TorchFunctionMode):
    """Notes the keys of the last fused self-attention of the code that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            call = inspect.signature(_arguments).bind_partial(*args, **kwargs).arguments
            # Attention pooling has fewer queries than keys and is none of the blocks.
            if call["key"].ndim == 4 and call["query"].shape[-2] == call["key"].shape[-2]:
                self.last = call["key"]
        return func(*args, **kwargs)


def _arguments(query: Tensor, key: Tensor, *rest: Any, **named: Any) -> None:
    """The first arguments of ``scaled_dot_product_attention``, by position or by name."""
