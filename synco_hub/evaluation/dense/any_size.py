"""Images of any size through a frozen network: whole patches, interpolated positions, the family's own feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torchvision.transforms.v2.functional as transforms
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from synco_hub.feature_adapter import FeatureRule, image_features, patch_embedding
from synco_hub.visualization.recorded_attention import forward_any_size


def patch_sides(network: nn.Module) -> tuple[int, int]:
    """Height and width in pixels of the network's patches; 1 and 1 for a network that cuts none.

    Args:
        network: What :func:`synco_hub.feature_adapter.feature_network` gave.
    """
    size: Any = getattr(patch_embedding(network), "patch_size", None)
    size = getattr(getattr(network, "config", None), "patch_size", None) if size is None else size
    if size is None:
        return 1, 1
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def pixel_values(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """An RGB image scaled to [0, 1] and normalised, at its own size.

    Args:
        image: RGB.
        mean: Of each channel.
        std: Of each channel.

    Returns:
        Shape: (1, 3, height, width), float32.
    """
    scaled = transforms.pil_to_tensor(image).float() / 255
    normalised: Tensor = transforms.normalize(scaled, list(mean), list(std))
    return normalised[None]


def cut_to_patches(pixels: Tensor, sides: tuple[int, int]) -> Tensor:
    """Leave out the rest of rows at the bottom and columns at the right that fill no patch.

    An image smaller than a patch is enlarged to one.

    Args:
        pixels: Shape: (batch, channels, height, width).
        sides: Height and width of a patch.

    Returns:
        Shape: (batch, channels, height, width) of whole patches.
    """
    height, width = (max(side, patch) for side, patch in zip(pixels.shape[-2:], sides, strict=True))
    if (height, width) != tuple(pixels.shape[-2:]):
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
    return pixels[..., : height // sides[0] * sides[0], : width // sides[1] * sides[1]]


def pad_to_patches(pixels: Tensor, sides: tuple[int, int]) -> Tensor:
    """Add zeros (the mean colour, once normalised) at the bottom and the right up to whole patches.

    Args:
        pixels: Normalised. Shape: (batch, channels, height, width).
        sides: Height and width of a patch.

    Returns:
        Shape: (batch, channels, height, width) of whole patches.
    """
    below, right = (-side % patch for side, patch in zip(pixels.shape[-2:], sides, strict=True))
    return F.pad(pixels, (0, right, 0, below))


def any_size_features(network: nn.Module, pixels: Tensor, rule: FeatureRule) -> Tensor:
    """The feature of :mod:`synco_hub.feature_adapter` for images of another size than the model's own.

    Args:
        network: What :func:`synco_hub.feature_adapter.feature_network` gave.
        pixels: Whole patches. Shape: (batch, channels, height, width).
        rule: Which feature.

    Returns:
        Shape: (batch, dim).

    Raises:
        ValueError: If the model cannot take this size.
    """
    return image_features(_AnySize(network), pixels, rule)


class _AnySize(nn.Module):
    """The network under the same three names, each taking any size."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network: Any = network

    def forward(self, pixels: Tensor) -> Any:
        return forward_any_size(self._network, pixels)

    def forward_features(self, pixels: Tensor) -> Any:
        return forward_any_size(self._network, pixels)

    def forward_head(self, features: Tensor, pre_logits: bool) -> Any:
        return self._network.forward_head(features, pre_logits=pre_logits)
