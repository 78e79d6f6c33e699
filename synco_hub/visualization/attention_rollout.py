"""Attention rollout: how much of each patch reaches [CLS] through all blocks, residual connections counted.

Source: Abnar and Zuidema, "Quantifying attention flow in transformers", 2020: each block mixes tokens by
(A + I) / 2, and the blocks' matrices are multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from synco_hub.feature_adapter import feature_network
from synco_hub.frozen import frozen
from synco_hub.visualization.last_attention import (
    RecordedSelfAttention,
    attends_in_windows,
    forward_any_size,
    patch_grid,
)


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
    network = feature_network(model)
    if attends_in_windows(network):
        raise ValueError(
            f"{type(network).__name__} attends within windows and has no [CLS] token to roll attention out from: look "
            "at its Grad-CAM, saliency or windowed attention"
        )
    grid = patch_grid(network, pixel_values)
    with frozen(network), torch.no_grad(), RecordedSelfAttention() as recorded:
        forward_any_size(network, pixel_values)
    if not recorded.blocks:
        raise ValueError(
            f"no attention over all tokens was seen in {type(network).__name__}: load the model with "
            "attn_implementation='sdpa' or 'eager', and give a vision transformer"
        )
    with torch.no_grad():
        from_cls = rollout(block() for block in recorded.blocks)[:, 0]
    if from_cls.shape[-1] <= math.prod(grid):
        raise ValueError(f"{type(network).__name__} has no [CLS] token: give a vision transformer that has one")
    return from_cls[:, -math.prod(grid) :].unflatten(-1, grid)
