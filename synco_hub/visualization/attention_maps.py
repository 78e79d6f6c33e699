"""What a vision transformer attends to: [CLS] attention and patch self-attention of its last block.

Source: paper section 12.1, after the visualisation protocol of DINO. The paper names no threshold; 0.6 of the mass is
DINO's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synco_hub.visualization.last_attention import last_attention

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
    :mod:`synco_hub.visualization.last_attention`.

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
