"""The fixed 2-D sine-cosine position embedding of a ViT, as the paper's parameter counts imply (Table 15).

This file travels to the Hub with every checkpoint, so it imports nothing of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from transformers.utils import logging

logger = logging.get_logger(__name__)


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

    Raises:
        ValueError: If the channels cannot be split into four.

    Source: the definition of Vaswani et al. for each axis; the split by axis is that of MoCo v3.
    """
    if dim % 4:
        raise ValueError(
            f"embed_dim={dim} is not divisible by 4, which the 2-D sine-cosine position embedding needs: change "
            "embed_dim or set position_embedding='learned'."
        )
    quarter = dim // 4
    frequency = temperature ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    row_angle = rows.flatten()[:, None] * frequency  # (height * width, dim / 4)
    column_angle = columns.flatten()[:, None] * frequency
    parts = [row_angle.sin(), row_angle.cos(), column_angle.sin(), column_angle.cos()]
    return torch.cat(parts, dim=1).float()  # (height * width, dim)


def set_sincos_position_embedding(network: nn.Module) -> None:
    """Overwrite a ViT's position embedding by the fixed one; prefix tokens ([CLS]) get zero.

    It stays a parameter, so that it is saved, counted and interpolated like a learned one, but is never trained.

    Args:
        network: A timm ViT with a position embedding.
    """
    patch_embed: Any = network.patch_embed
    embedding: Any = network.pos_embed
    if not embedding.is_meta:
        height, width = patch_embed.grid_size
        grid = sincos_position_embedding(height, width, embedding.shape[-1])
        prefix = embedding.shape[1] - grid.shape[0]
        with torch.no_grad():
            embedding[:, :prefix] = 0.0
            embedding[:, prefix:] = grid
    embedding.requires_grad_(False)


def find_grid_side(tokens: int, prefix: int) -> int | None:
    """Patches along a side of the square that a ViT's embedded tokens are; None where they are no square."""
    side = math.isqrt(max(tokens - prefix, 0))
    return side if side > 0 and side * side == tokens - prefix else None


def fit_position_embedding(embedding: Tensor, grid: tuple[int, int], prefix: int, fixed: bool) -> Tensor:
    """A ViT's position embedding for another grid of patches: computed if it is the fixed one, else interpolated.

    Args:
        embedding: Of the old grid, a square, its prefix tokens ([CLS]) first. Shape: (1, prefix + patches, dim).
        grid: Rows and columns of the new grid.
        prefix: How many prefix tokens it has.
        fixed: Whether it is the fixed sine-cosine embedding.

    Returns:
        Shape: (1, prefix + rows * columns, dim).
    """
    if fixed:
        table = sincos_position_embedding(*grid, embedding.shape[-1])
        return torch.cat([embedding[:, :prefix], table[None].to(embedding)], dim=1)
    fitted: Tensor = resample_abs_pos_embed(embedding, list(grid), num_prefix_tokens=prefix)
    return fitted


def fit_loaded_position_embeddings(
    model: Any, kind: type[Any], info: dict[str, Any], load_at: Callable[[int], Any]
) -> None:
    """Bring position embeddings of another image size to the config's; what was done is no mismatch any more.

    Args:
        model: What was loaded.
        kind: Class of the networks in it that have one.
        info: What `transformers` reported of loading; changed in place.
        load_at: Loads the checkpoint for images of that many pixels.
    """
    shapes = {entry[0]: tuple(entry[1]) for entry in info["mismatched_keys"]}
    own: Any = None
    for name, module in model.named_modules():
        key, patches = (
            f"{name}.backbone.{part}".removeprefix(".") for part in ("pos_embed", "patch_embed.proj.weight")
        )
        if not isinstance(module, kind) or key not in shapes or patches in shapes:
            continue
        embedding, grid = module.backbone.pos_embed, module.backbone.patch_embed.grid_size
        prefix = embedding.shape[1] - grid[0] * grid[1]
        side = find_grid_side(shapes[key][1], prefix)
        if side is None or shapes[key][-1] != embedding.shape[-1] or embedding.is_meta:
            continue
        size, fixed = side * module.config.patch_size, module.config.position_embedding == "sincos"
        own = load_at(size) if own is None else own
        fitted = fit_position_embedding(own.get_parameter(key).detach().to(embedding), grid, prefix, fixed)
        with torch.no_grad():
            embedding.copy_(fitted)
        info["mismatched_keys"] = [entry for entry in info["mismatched_keys"] if entry[0] != key]
        how = "computed" if fixed else "interpolated"
        logger.warning(
            f"{key} was {how} for images of {module.config.image_size} pixels: the checkpoint's are {size}."
        )
