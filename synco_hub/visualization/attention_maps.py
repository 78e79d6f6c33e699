"""What a vision transformer attends to, as maps of the image.

Source: paper section 12.1, after the visualisation protocol of DINO: [CLS] attention and patch self-attention of the
last block. The paper names no threshold; 0.6 of the mass is DINO's.

Attention rollout goes through all blocks, residual connections counted (Abnar and Zuidema, "Quantifying attention flow
in transformers", 2020): each block mixes tokens by (A + I) / 2, and the blocks' matrices are multiplied.

A Swin's block attends within windows of a map that is padded and, in every other block, shifted. Undoing these steps
puts what a token receives from the others of its window back to where the token is. In the last stage of a Swin-T at
224 pixels the one window is the whole image.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synco_hub.feature_pooling import find_feature_network
from synco_hub.features import eval_mode
from synco_hub.visualization.recorded_attention import (
    TOKENS_INSTEAD,
    RecordedSelfAttention,
    attends_in_windows,
    find_patch_grid,
    forward_any_size,
    last_attention,
)

ATTENTION_MASS = 0.6


@dataclass(frozen=True)
class AttentionMaps:
    """Attention maps of a batch of images, on the patch grid unless upsampled.

    Attributes:
        cls: Attention of [CLS] to the patches, heads averaged. Shape: (batch, height, width).
        patch: Mean attention each patch receives from the others, heads averaged. Shape: (batch, height, width).
        heads: Attention of [CLS] to the patches, head by head. Shape: (batch, heads, height, width).
        image_size: Height and width in pixels of the images that the model saw.
    """

    cls: Tensor
    patch: Tensor
    heads: Tensor
    image_size: tuple[int, int]

    def upsampled(self, size: tuple[int, int] | None = None) -> Self:
        """The maps in image resolution, bilinear.

        Args:
            size: Height and width in pixels; None for the images' own.
        """
        size = self.image_size if size is None else size
        return self._each(lambda maps: upsample(maps, size))

    def thresholded(self, mass: float = ATTENTION_MASS) -> Self:
        """The maps with 0 outside the fewest patches that hold the given share of each map's attention."""
        return self._each(lambda maps: maps * mass_mask(maps, mass))

    def __getitem__(self, index: int) -> Self:
        """The maps of one image of the batch, as a batch of one."""
        count = len(self.cls)
        if not -count <= index < count:
            raise IndexError(f"image {index} of a batch of {count}")
        return self._each(lambda maps: maps[index % count][None])

    def __len__(self) -> int:
        return len(self.cls)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, cls=change(self.cls), patch=change(self.patch), heads=change(self.heads))


def attention_maps(model: nn.Module, pixel_values: Tensor) -> AttentionMaps:
    """Run a vision transformer once and read off what its last block attends to.

    Works under the default fused attention: only the last block's matrix is formed, see
    :mod:`synco_hub.visualization.recorded_attention`.

    Args:
        model: SynCoModel, or any timm or transformers vision transformer with a [CLS] token, with or without a head.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).

    Returns:
        Maps on the patch grid, float32, on the model's device.

    Raises:
        ValueError: If the model is a Swin, has no [CLS] token, or cannot take this image size.
    """
    last = last_attention(model, pixel_values)
    height, width = pixel_values.shape[-2:]
    heads = class_attention(last.weights, last.num_prefix_tokens).unflatten(-1, last.grid)
    patch = patch_self_attention(last.weights, last.num_prefix_tokens).unflatten(-1, last.grid)
    return AttentionMaps(cls=heads.mean(dim=1), patch=patch, heads=heads, image_size=(height, width))


def class_attention(weights: Tensor, num_prefix_tokens: int = 1) -> Tensor:
    """Attention of the [CLS] token to every patch.

    Args:
        weights: Attention weights. Shape: (batch, heads, tokens, tokens).
        num_prefix_tokens: Tokens before the patches, [CLS] the first of them.

    Returns:
        Shape: (batch, heads, patches).
    """
    return weights[:, :, 0, num_prefix_tokens:]


def patch_self_attention(weights: Tensor, num_prefix_tokens: int = 1) -> Tensor:
    """Mean attention that each patch receives from the other patches, averaged over heads.

    Neither what [CLS] and other prefix tokens give nor what a patch gives to itself counts.

    Args:
        weights: Attention weights, each row (query) summing to 1. Shape: (batch, heads, tokens, tokens).
        num_prefix_tokens: Tokens before the patches.

    Returns:
        Shape: (batch, patches).

    Raises:
        ValueError: If there are fewer than two patches.
    """
    between = weights.mean(dim=1)[:, num_prefix_tokens:, num_prefix_tokens:]  # (batch, giving, receiving)
    others = between.shape[-1] - 1
    if others < 1:
        raise ValueError(
            f"{others + 1} patch has no other patch to receive attention from: use a larger image or smaller patches"
        )
    return (between.sum(dim=1) - between.diagonal(dim1=1, dim2=2)) / others


def mass_mask(maps: Tensor, mass: float = ATTENTION_MASS) -> Tensor:
    """The most attended patches that together hold a share of a map's attention.

    As in DINO: patches are sorted by rising attention, and those beyond the first (1 - mass) of the sum are kept.
    Among equal patches the earlier one in reading order is kept first.

    Args:
        maps: Attention, not negative. Shape: (..., height, width).
        mass: Share of the sum to keep, in (0, 1].

    Returns:
        True where a patch is kept, at least one a map. Shape: (..., height, width).

    Raises:
        ValueError: If mass is not in (0, 1].
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass={mass} is not in (0, 1]: it is the share of the attention to keep, the default is 0.6")
    flat = maps.flatten(-2).double()
    values, order = flat.sort(dim=-1, descending=True, stable=True)
    # What the better patches hold already decides whether one more is needed.
    before = values.cumsum(dim=-1) - values
    kept = before < mass * values.sum(dim=-1, keepdim=True)
    return torch.zeros_like(kept).scatter_(-1, order, kept).reshape(maps.shape)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring maps to the resolution of the image, bilinear.

    Args:
        maps: Shape: (batch, height, width) or (batch, heads, height, width).
        size: Height and width in pixels.

    Returns:
        Shape: (batch, size[0], size[1]) or (batch, heads, size[0], size[1]).
    """
    stacked = maps if maps.ndim == 4 else maps[:, None]
    upsampled = F.interpolate(stacked, size=size, mode="bilinear", align_corners=False)
    return upsampled if maps.ndim == 4 else upsampled[:, 0]


def rollout(attentions: Iterable[Tensor]) -> Tensor:
    """Multiply the blocks' attention, heads averaged and residual connections added.

    Args:
        attentions: One tensor a block, from the first to the last, each row (query) summing to 1; consumed one at a
            time. Shape of each: (batch, heads, tokens, tokens).

    Returns:
        Row i: how much every input token contributes to output token i; rows sum to 1.
        Shape: (batch, tokens, tokens).

    Raises:
        ValueError: If there is no block.
    """
    product: Tensor | None = None
    for attention in attentions:
        mixing = attention.mean(dim=1)
        mixing = (mixing + torch.eye(mixing.shape[-1], dtype=mixing.dtype, device=mixing.device)) / 2
        product = mixing if product is None else mixing @ product
    if product is None:
        raise ValueError("no attention was given: a rollout needs the attention of at least one block")
    return product


def attention_rollout(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """Run a vision transformer once and roll its attention out to the patches.

    Args:
        model: A vision transformer with a [CLS] token, with or without a head; fused attention included.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).

    Returns:
        What each patch contributes to [CLS]. Shape: (batch, rows, columns).

    Raises:
        ValueError: If the model attends in windows, has no [CLS] token, or shows no attention.
    """
    network = find_feature_network(model)
    if attends_in_windows(network):
        raise ValueError(
            f"{type(network).__name__} attends within windows and has no [CLS] token to roll attention out from: look "
            "at its Grad-CAM, saliency or windowed attention"
        )
    grid = find_patch_grid(network, pixel_values)
    with eval_mode(network), torch.no_grad(), RecordedSelfAttention() as recorded:
        forward_any_size(network, pixel_values)
    if not recorded.blocks:
        raise ValueError(
            f"no attention over all tokens was seen in {type(network).__name__}: load a vision transformer with "
            f"attn_implementation='sdpa' or 'eager'; of any other network {TOKENS_INSTEAD}"
        )
    with torch.no_grad():
        from_cls = rollout(block() for block in recorded.blocks)[:, 0]
    if from_cls.shape[-1] <= math.prod(grid):
        raise ValueError(
            f"{type(network).__name__} has no [CLS] token: give a vision transformer that has one, or {TOKENS_INSTEAD}"
        )
    return from_cls[:, -math.prod(grid) :].unflatten(-1, grid)


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
    network = find_feature_network(model)
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
        with eval_mode(network), torch.no_grad(), RecordedSelfAttention() as recorded:
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
