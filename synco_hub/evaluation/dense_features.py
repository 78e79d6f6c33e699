"""Images of any size through a frozen network: whole patches, interpolated positions, the family's own feature.

One feature a patch, at any image size: the last tokens of a ViT, or the map of a chosen stage of a Swin.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
import torchvision.transforms.v2.functional as transforms
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from synco_hub.feature_pooling import (
    FeatureRule,
    find_feature_network,
    find_image_config,
    patch_embedding,
    pool_features,
)
from synco_hub.features import eval_mode
from synco_hub.visualization import attends_in_windows, token_map
from synco_hub.visualization.recorded_attention import forward_any_size
from synco_hub.visualization.token_maps import lay_tokens_on_grid


def patch_sides(network: nn.Module) -> tuple[int, int]:
    """Height and width in pixels of the network's patches; 1 and 1 for a network that cuts none."""
    size: Any = getattr(patch_embedding(network), "patch_size", None)
    size = getattr(find_image_config(network), "patch_size", None) if size is None else size
    if size is None:
        return 1, 1
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def pixel_values(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """An RGB image scaled to [0, 1] and normalised, at its own size; grey where there is one mean.

    Returns:
        Shape: (1, channels, height, width), float32.
    """
    scaled = transforms.pil_to_tensor(image if len(mean) > 1 else image.convert("L")).float() / 255
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


def compute_any_size_features(network: nn.Module, pixels: Tensor, rule: FeatureRule) -> Tensor:
    """The feature of :mod:`synco_hub.feature_pooling` for images of another size than the model's own.

    Args:
        network: What :func:`synco_hub.feature_pooling.find_feature_network` gave.
        pixels: Whole patches. Shape: (batch, channels, height, width).
        rule: Which feature.

    Returns:
        Shape: (batch, dim).
    """
    return pool_features(network, forward_any_size(network, pixels), rule)


# What a ViT/16 gives; of a Swin-T, S or B it is the third stage.
USUAL_STRIDE = 16


def choose_stage(model: nn.Module, stage: int | None = None) -> int | None:
    """Which stage of a Swin gives the features.

    Args:
        model: Any model that :mod:`synco_hub.feature_pooling` knows.
        stage: Counted from 1; None for the last one whose patches are at most 16 pixels wide.
    """
    network = find_feature_network(model)
    if not attends_in_windows(network):
        if stage is not None:
            raise ValueError(f"stage={stage}: {type(network).__name__} has no stages, leave --stage out")
        return None
    layers = getattr(getattr(network, "backbone", network), "layers", None)
    if layers is None or patch_embedding(network) is None:
        raise ValueError(
            f"the stages of {type(network).__name__} are not to be reached: use a Swin of synco-hub or of timm"
        )
    count = len(layers)
    if stage is None:
        first = max(patch_sides(network))
        return max([k for k in range(1, count + 1) if first * 2 ** (k - 1) <= USUAL_STRIDE], default=1)
    if not 1 <= stage <= count:
        raise ValueError(f"stage={stage}: the model has the stages 1 to {count}")
    return stage


def find_feature_stride(model: nn.Module, stage: int | None) -> tuple[int, int]:
    """Height and width in pixels that one feature stands for."""
    sides = patch_sides(find_feature_network(model))
    factor = 1 if stage is None else 2 ** (stage - 1)
    return sides[0] * factor, sides[1] * factor


def compute_dense_features(model: nn.Module, pixels: Tensor, stage: int | None = None) -> Tensor:
    """Features of the patches of images, not normalised.

    Args:
        model: A ViT or Swin that takes images of this size; it stays as it is.
        pixels: Normalised, whole patches. Shape: (batch, channels, height, width).
        stage: What :func:`choose_stage` gave. The stage's output as it is, before any norm.

    Returns:
        float32. Shape: (batch, rows, columns, dim).
    """
    if stage is None:
        return token_map(model, pixels)
    network: Any = find_feature_network(model)
    layer = getattr(network, "backbone", network).layers[stage - 1]
    outputs: list[Tensor] = []
    own_thread = threading.get_ident()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A server shares the model between threads, and a hook hears the forward passes of all of them.
        if threading.get_ident() == own_thread:
            outputs.append(output)

    handle = layer.register_forward_hook(note)
    try:
        with eval_mode(network), torch.no_grad():
            forward_any_size(network, pixels)
    finally:
        handle.remove()
    return lay_tokens_on_grid(outputs[0].float(), network, pixels)
