"""Stochastic depth that computes only what it keeps: blocks skip the samples whose residual branch is dropped.

A residual branch that is dropped for a sample with probability p is usually computed for the whole batch and then
multiplied by zero. Here the branch sees the kept samples alone. The law is the same, a coin for each sample and
branch, and so are the coins: the same seed drops the same samples as timm's `DropPath`.

It needs the number of kept samples on the host, which on a GPU would synchronise every branch and, compiled, would
change shapes from step to step: so it is for eager training on a CPU, where nothing of the kind is lost.

Source: Huang et al. 2016 (stochastic depth); paper section 7.4 (rate 0.2 on the online network).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def add_branch(x: Tensor, branch: Callable[[Tensor], Tensor], drop_path: nn.Module) -> Tensor:
    """Add a residual branch, computed only for the samples that stochastic depth keeps.

    Args:
        x: Input of the branch. Shape: (batch, ...).
        branch: From (kept, ...) to (kept, ...), each sample on its own.
        drop_path: timm's `DropPath`, or an identity.

    Returns:
        x + DropPath(branch(x)). Shape: (batch, ...).
    """
    if not isinstance(drop_path, DropPath) or not drop_path.training or drop_path.drop_prob == 0.0:
        return x + branch(x)
    keep = 1.0 - drop_path.drop_prob
    coins = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    kept = coins.flatten().nonzero().flatten()
    scale = 1.0 / keep if drop_path.scale_by_keep and keep > 0.0 else 1.0
    if len(kept) == len(x):
        return x + branch(x) * scale
    if len(kept) == 0:
        # Distributed training waits for the gradient of every parameter: one sample passes, and adds nothing.
        kept, scale = kept.new_zeros(1), 0.0
    return x.index_add(0, kept, branch(x.index_select(0, kept)).to(x.dtype), alpha=scale)


class SkippingBlock(Block):
    """timm's ViT block, forward pass by :func:`add_branch`."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Both branches. Shape: (batch, tokens, dim)."""
        masks = {"attn_mask": attn_mask, "is_causal": is_causal} if attn_mask is not None or is_causal else {}
        x = add_branch(x, lambda kept: self.ls1(self.attn(self.norm1(kept), **masks)), self.drop_path1)
        return add_branch(x, lambda kept: self.ls2(self.mlp(self.norm2(kept))), self.drop_path2)


class SkippingSwinBlock(SwinTransformerBlock):
    """timm's Swin block, forward pass by :func:`add_branch`."""

    def forward(self, x: Tensor) -> Tensor:
        """Both branches. Shape: (batch, height, width, dim)."""
        attention: Any = self._attn
        x = add_branch(x, lambda kept: attention(self.norm1(kept)), self.drop_path1)
        return add_branch(x, lambda kept: self.mlp(self.norm2(kept)), self.drop_path2)


class SkippingSwinV2Block(SwinTransformerV2Block):
    """timm's block of the second Swin, which normalises after each branch; forward pass by :func:`add_branch`."""

    def forward(self, x: Tensor) -> Tensor:
        """Both branches. Shape: (batch, height, width, dim)."""
        attention: Any = self._attn
        x = add_branch(x, lambda kept: self.norm1(attention(kept)), self.drop_path1)
        return add_branch(x, lambda kept: self.norm2(self.mlp(kept)), self.drop_path2)


SKIPPING: dict[type[nn.Module], type[nn.Module]] = {
    Block: SkippingBlock,
    SwinTransformerBlock: SkippingSwinBlock,
    SwinTransformerV2Block: SkippingSwinV2Block,
}


def skip_dropped_samples(network: nn.Module) -> int:
    """Let every block of a network with stochastic depth skip what it drops. Weights and hooks stay as they are.

    Args:
        network: Holds timm's ViT or Swin blocks; other blocks are left alone.

    Returns:
        How many blocks were changed.
    """
    changed = 0
    for module in network.modules():
        skipping: Any = SKIPPING.get(type(module))
        if skipping is not None and any(isinstance(child, DropPath) for child in module.children()):
            module.__class__ = skipping
            changed += 1
    return changed


def pays_off(device: torch.device, compiled: bool) -> bool:
    """Whether training on this device gains by skipping: eager on a CPU."""
    return device.type == "cpu" and not compiled
