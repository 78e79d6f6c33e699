"""Windowed attention of a Swin, unfolded to the image.

A Swin's block attends within windows of a map that is padded and, in every other block, shifted. Undoing these steps
puts what a token receives from the others of its window back to where the token is. In the last stage of a Swin-T at
224 pixels the one window is the whole image.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from synco_hub.feature_adapter import feature_network
from synco_hub.frozen import frozen
from synco_hub.visualization.attention_maps import patch_self_attention
from synco_hub.visualization.last_attention import RecordedSelfAttention, attends_in_windows, forward_any_size


def unfold_windows(
    values: Tensor, grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], pads_first: bool = False
) -> Tensor:
    """Put one value a window token back on the map.

    Args:
        values: Windows of an image row by row, tokens of a window row by row.
            Shape: (batch * windows, window[0] * window[1]).
        grid: Rows and columns of the map.
        window: Rows and columns of a window.
        shift: By how many rows and columns the map was rolled up and left before it was cut.
        pads_first: Whether the map was padded to whole windows before it was rolled (transformers) or after (timm).

    Returns:
        Shape: (batch, grid[0], grid[1]).
    """
    (rows, columns), (height, width) = grid, window
    vertical, horizontal = -(-rows // height), -(-columns // width)
    windows = values.reshape(-1, vertical, horizontal, height, width)
    padded = windows.permute(0, 1, 3, 2, 4).reshape(-1, vertical * height, horizontal * width)
    if pads_first:
        return padded.roll(shift, dims=(1, 2))[:, :rows, :columns]
    return padded[:, :rows, :columns].roll(shift, dims=(1, 2))


def window_attention(model: nn.Module, pixel_values: Tensor, block: int = -1) -> Tensor:
    """Mean attention that each token of a Swin receives from the others of its window, heads averaged.

    Args:
        model: A Swin of this package, timm or transformers, with or without a head.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).
        block: Which block, counted through all stages; negative counts from the last.

    Returns:
        Shape: (batch, rows, columns) of that block's map.

    Raises:
        ValueError: If the model is no Swin, has no such block, or hides its attention.
    """
    network = feature_network(model)
    if not attends_in_windows(network):
        raise ValueError(f"{type(network).__name__} is no Swin: look at its [CLS] attention instead")
    blocks = [module for module in network.modules() if hasattr(module, "shift_size") and hasattr(module, "mlp")]
    if not -len(blocks) <= block < len(blocks):
        raise ValueError(f"block={block}: the model has {len(blocks)} blocks, give 0 to {len(blocks) - 1}")
    chosen: Any = blocks[block]
    grids: list[tuple[int, int]] = []
    own_thread = threading.get_ident()

    def note(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        # A server shares the model between threads, and a hook hears the forward passes of all of them.
        if threading.get_ident() == own_thread:
            grids.append(_grid(inputs))

    handle = chosen.register_forward_pre_hook(note)
    try:
        with frozen(network), torch.no_grad(), RecordedSelfAttention() as recorded:
            forward_any_size(network, pixel_values)
    finally:
        handle.remove()
    if len(recorded.blocks) != len(blocks) or not grids:
        raise ValueError(
            f"the attention of {type(network).__name__} is not to be seen: load it with 'eager' or 'sdpa'"
        )
    received = patch_self_attention(recorded.blocks[block](), num_prefix_tokens=0)
    # transformers' blocks keep their attention under another name than timm's, and pad before they roll.
    return unfold_windows(
        received, grids[0], _pair(chosen.window_size), _pair(chosen.shift_size), hasattr(chosen, "attention")
    )


def _grid(inputs: tuple[Any, ...]) -> tuple[int, int]:
    """Of timm's (batch, rows, columns, dim), or of transformers' second argument."""
    if inputs[0].ndim == 4:
        return int(inputs[0].shape[1]), int(inputs[0].shape[2])
    return int(inputs[1][0]), int(inputs[1][1])


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, (tuple, list)) else (int(size), int(size))
