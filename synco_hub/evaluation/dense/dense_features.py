"""One feature a patch, at any image size: the last tokens of a ViT, or the map of a chosen stage of a Swin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from synco_hub.evaluation.dense.any_size import patch_sides
from synco_hub.feature_adapter import feature_network, patch_embedding
from synco_hub.frozen import frozen
from synco_hub.visualization import attends_in_windows, token_map
from synco_hub.visualization.recorded_attention import forward_any_size
from synco_hub.visualization.token_maps import tokens_on_grid

# What a ViT/16 gives; of a Swin-T, S or B it is the third stage.
USUAL_STRIDE = 16


def chosen_stage(model: nn.Module, stage: int | None = None) -> int | None:
    """Which stage of a Swin gives the features.

    Args:
        model: Any model that :mod:`synco_hub.feature_adapter` knows.
        stage: Counted from 1; None for the last one whose patches are at most 16 pixels wide.

    Returns:
        The stage of a Swin, None for every other model: its last tokens after the final norm.

    Raises:
        ValueError: If the model has no such stage, or no stages at all.
    """
    network = feature_network(model)
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


def feature_stride(model: nn.Module, stage: int | None) -> tuple[int, int]:
    """Height and width in pixels that one feature stands for.

    Args:
        model: The model.
        stage: What :func:`chosen_stage` gave.
    """
    sides = patch_sides(feature_network(model))
    factor = 1 if stage is None else 2 ** (stage - 1)
    return sides[0] * factor, sides[1] * factor


def dense_features(model: nn.Module, pixels: Tensor, stage: int | None = None) -> Tensor:
    """Features of the patches of images, not normalised.

    Args:
        model: A ViT or Swin that takes images of this size; it stays as it is.
        pixels: Normalised, whole patches. Shape: (batch, channels, height, width).
        stage: What :func:`chosen_stage` gave. The stage's output as it is, before any norm.

    Returns:
        float32. Shape: (batch, rows, columns, dim).

    Raises:
        ValueError: If the model cannot take this size, or its tokens lie on no grid.
    """
    if stage is None:
        return token_map(model, pixels)
    network: Any = feature_network(model)
    layer = getattr(network, "backbone", network).layers[stage - 1]
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with frozen(network), torch.no_grad():
            forward_any_size(network, pixels)
    finally:
        handle.remove()
    return tokens_on_grid(outputs[0].float(), network, pixels)
