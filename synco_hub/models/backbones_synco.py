"""The backbones by short name (paper Table 10 and section 10.6), built from timm.

This file travels to the Hub with every checkpoint, so it imports nothing of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BackboneSpecification:
    """The numbers that define a backbone; `None` keeps the default of the timm model it is built from.

    Attributes:
        family: `vit`, `swin`, or `timm` for any other timm name.
        timm_name: The timm model whose constructor is called.
        embed_dim: Width of the tokens (Swin: of the first stage).
        depth: Blocks (Swin: one number a stage).
        num_heads: Attention heads (Swin: one number a stage).
        patch_size: Side of a patch in pixels.
        image_size: Side of the input in pixels.
        window_size: Side of a Swin window in patches.
        mlp_ratio: Hidden width of a block's MLP over its width.
        position_embedding: `sincos`, or None where the family has none or timm's own is kept.
        layer_norm_eps: Epsilon of every LayerNorm.
        weight_init: timm's initialisation scheme; `moco` is uniform over the fused query-key-value matrix.
    """

    family: str
    timm_name: str
    embed_dim: int | None = None
    depth: int | tuple[int, ...] | None = None
    num_heads: int | tuple[int, ...] | None = None
    patch_size: int | None = None
    image_size: int | None = None
    window_size: int | None = None
    mlp_ratio: float | None = None
    position_embedding: str | None = None
    layer_norm_eps: float | None = None
    weight_init: str | None = None


def _vit(timm_name: str, dim: int, depth: int, heads: int, patch: int = 16, size: int = 224) -> BackboneSpecification:
    return BackboneSpecification(
        "vit", timm_name, dim, depth, heads, patch, size, None, 4.0, "sincos", layer_norm_eps=1e-6, weight_init="moco"
    )


def _swin(
    timm_name: str,
    dim: int,
    depth: tuple[int, ...],
    heads: tuple[int, ...],
    patch: int = 4,
    size: int = 224,
    window: int = 7,
) -> BackboneSpecification:
    return BackboneSpecification("swin", timm_name, dim, depth, heads, patch, size, window, 4.0, layer_norm_eps=1e-5)


# Table 10: deit-s and swin-t. Section 10.6 names the larger and the second-version ones. `nano` ones are for small
# images, tests and the demonstration.
BACKBONES: dict[str, BackboneSpecification] = {
    "deit-t": _vit("vit_tiny_patch16_224", 192, 12, 3),
    "deit-s": _vit("vit_small_patch16_224", 384, 12, 6),
    "vit-b": _vit("vit_base_patch16_224", 768, 12, 12),
    "vit-l": _vit("vit_large_patch16_224", 1024, 24, 16),
    "vit-nano": _vit("vit_tiny_patch16_224", 128, 3, 4, patch=8, size=32),
    "swin-t": _swin("swin_tiny_patch4_window7_224", 96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin-s": _swin("swin_small_patch4_window7_224", 96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin-b": _swin("swin_base_patch4_window7_224", 128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin-v2-t": _swin("swinv2_tiny_window8_256", 96, (2, 2, 6, 2), (3, 6, 12, 24), size=256, window=8),
    "swin-nano": _swin("swin_tiny_patch4_window7_224", 48, (2, 2), (2, 4), patch=2, size=32, window=4),
}


def suggest(name: str, known: Iterable[str]) -> str:
    """` Did you mean …?` with the nearest known names, or nothing.

    Args:
        name: What was given.
        known: What there is.
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def build_backbone(config: Any) -> nn.Module:
    """Build the timm network that a `SynCoConfig` describes, with timm's own initialisation untouched.

    Short ViT names equal `timm.create_model(..., weight_init="moco")` bit for bit for the same seed; then the position
    embedding is replaced by the fixed one.

    Args:
        config: A `SynCoConfig`.

    Returns:
        The headless timm network; a pooled feature comes from `forward_head(features, pre_logits=True)`.

    Raises:
        ValueError: If the name is neither a short name nor a timm ViT or Swin.
    """
    specification = BACKBONES.get(config.backbone) or BackboneSpecification("timm", config.backbone)
    arguments: dict[str, Any] = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "window_size": config.window_size,
        "weight_init": specification.weight_init,
        # Swin's constructors say "depths".
        ("depths" if isinstance(config.depth, list) else "depth"): config.depth,
    }
    arguments = {key: value for key, value in arguments.items() if value is not None}
    network = _create(config.backbone, specification.timm_name, config, arguments)
    _set_layer_norm_eps(network, config.layer_norm_eps)
    if config.position_embedding == "sincos":
        set_sincos_position_embedding(network)
    return network


def _create(backbone: str, timm_name: str, config: Any, arguments: dict[str, Any]) -> nn.Module:
    """Call timm and turn its errors into one line with a remedy."""
    if not timm.is_model(timm_name):
        known = [*BACKBONES, *timm.list_models(["vit_*", "deit*", "swin*"])]
        raise ValueError(
            f"backbone={backbone!r} is unknown: use a short name ({', '.join(BACKBONES)}) or the name of a timm ViT "
            f"or Swin.{suggest(backbone, known)}"
        )
    common = {
        "num_classes": 0,
        "in_chans": config.num_channels,
        "drop_path_rate": config.drop_path_rate,
        **arguments,
    }
    try:
        # Dynamic size defers the choice of position interpolation to `forward`, where we check the size ourselves.
        network: nn.Module = (
            timm.create_model(timm_name, **common)
            if timm_name.startswith("swin")
            else timm.create_model(timm_name, dynamic_img_size=True, **common)
        )
    except (TypeError, AssertionError, RuntimeError) as error:
        raise ValueError(
            f"timm cannot build backbone={backbone!r} with {arguments}: {error}. Leave out what this network does not "
            "have."
        ) from error
    if not (is_vision_transformer(network) or is_swin(network)):
        raise ValueError(
            f"backbone={backbone!r} is a timm {type(network).__name__}, neither a ViT nor a Swin: choose one of "
            f"{', '.join(BACKBONES)} or a timm name that begins with vit, deit or swin."
        )
    return network


def is_vision_transformer(network: nn.Module) -> bool:
    """Whether the network is a timm ViT: blocks over one sequence of tokens."""
    return hasattr(network, "blocks") and hasattr(network, "num_prefix_tokens")


def is_swin(network: nn.Module) -> bool:
    """Whether the network is a timm Swin or Swin-V2: stages of windowed attention over a grid of tokens."""
    return hasattr(network, "layers") and hasattr(network, "patch_embed") and not hasattr(network, "blocks")


def _set_layer_norm_eps(network: nn.Module, eps: float | dict[str, float] | None) -> None:
    if eps is None:
        return
    for name, module in network.named_modules():
        if isinstance(module, nn.LayerNorm):
            value = eps if isinstance(eps, (int, float)) else eps.get(_layer_norm_kind(name))
            module.eps = module.eps if value is None else value


def _layer_norm_kind(name: str) -> str:
    endings = {
        "norm1": "block_attention",
        "norm2": "block_mlp",
        "patch_embed.norm": "patch_embedding",
        "downsample.norm": "patch_merging",
    }
    return next((kind for ending, kind in endings.items() if name.endswith(ending)), "final")


def sincos_position_embedding(height: int, width: int, dim: int, temperature: float = 10000.0) -> Tensor:
    """Fixed 2-D sine-cosine position embedding of a grid of patches.

    A quarter of the channels each: sine and cosine of the row, sine and cosine of the column, with frequencies
    falling geometrically from 1 towards 1 / temperature.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        dim: Channels, a multiple of 4.
        temperature: Ratio of the highest to (nearly) the lowest frequency.

    Returns:
        Shape: (height * width, dim), row by row.

    Source: the definition of Vaswani et al. for each axis; the split by axis and its order are those of MoCo v3.
    """
    quarter = dim // 4
    frequency = temperature ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    column_angle = columns.flatten()[:, None] * frequency  # (height * width, dim / 4)
    row_angle = rows.flatten()[:, None] * frequency
    parts = [row_angle.sin(), row_angle.cos(), column_angle.sin(), column_angle.cos()]
    return torch.cat(parts, dim=1).float()  # (height * width, dim)


def set_sincos_position_embedding(network: nn.Module) -> None:
    """Overwrite a ViT's position embedding by the fixed one; prefix tokens ([CLS]) get zero.

    It stays a parameter, so that it is saved, counted and interpolated like a learned one, but is never trained.

    Args:
        network: A timm ViT.

    Raises:
        ValueError: If the network has no absolute position embedding.
    """
    embedding = getattr(network, "pos_embed", None)
    if embedding is None:
        raise ValueError(
            "position_embedding='sincos' was asked for, but this backbone has no absolute position embedding: leave "
            "position_embedding out."
        )
    patch_embed: Any = network.patch_embed
    height, width = patch_embed.grid_size
    if not embedding.is_meta:
        grid = sincos_position_embedding(height, width, embedding.shape[-1])
        prefix = embedding.shape[1] - grid.shape[0]
        with torch.no_grad():
            embedding.zero_()
            embedding[0, prefix:] = grid.to(embedding)
    embedding.requires_grad_(False)
