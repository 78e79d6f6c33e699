"""The views of the Space: from a picture, a model and the controls to one panel of the board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from space_app.looks import Looks
from space_app.panels import Panel
from synco_hub.visualization import (
    AttentionMaps,
    GradientMaps,
    attends_in_windows,
    attention_maps,
    attention_rollout,
    blended,
    foreground_mask,
    gradient_maps,
    mass_mask,
    overlay,
    patch_similarity,
    principal_colours,
    relative_to_range,
    token_map,
    upsample,
    window_attention,
)
from synco_hub.visualization.overlay import PreparedImage

ATTENTION_KINDS = ("[CLS], mean of the heads", "[CLS], one head", "patch self-attention", "rollout through all blocks")
TOKEN_KINDS = ("similarity to one patch", "principal components", "foreground")
GRADIENT_KINDS = ("Grad-CAM", "saliency", "windowed attention")


@dataclass(frozen=True)
class Picked:
    """What is looked at.

    Attributes:
        path: The upload.
        model: Name of the model.
        detail: Factor on the model's own input size.
    """

    path: str | None
    model: str
    detail: int = 1


@dataclass(frozen=True)
class Drawing:
    """How a map is drawn.

    Attributes:
        mass: Share of the map's sum that is shown, in (0, 1].
        strength: Share of the map's colour over the picture.
    """

    mass: float = 1.0
    strength: float = 0.6


def attention_panel(looks: Looks, picked: Picked, kind: str, head: int, drawing: Drawing) -> Panel:
    """Attention of a vision transformer over the picture.

    Args:
        looks: Memory of results.
        picked: Picture, model and detail.
        kind: One of :data:`ATTENTION_KINDS`.
        head: Which head, from 1; used where one head is shown.
        drawing: Threshold and strength.

    Raises:
        ValueError: If the picture or the model cannot be used.
    """
    if attends_in_windows(looks.models.get(picked.model)[0]):
        return Panel(picked.model, None, "a Swin attends within windows, without [CLS]: see Gradients and windows")
    if kind == ATTENTION_KINDS[3]:
        prepared, rolled = looks.result(_rollout, picked.path, picked.model, picked.detail)
        return _drawn(picked.model, prepared, rolled, "attention of [CLS] rolled out through all blocks", drawing)
    prepared, maps = looks.result(_attention, picked.path, picked.model, picked.detail)
    if kind == ATTENTION_KINDS[1]:
        head = min(head, maps.heads.shape[1])
        words = f"[CLS] attention of head {head} of {maps.heads.shape[1]}"
        return _drawn(picked.model, prepared, maps.heads[:, head - 1], words, drawing)
    if kind == ATTENTION_KINDS[2]:
        words = "mean attention that each patch receives from the others"
        return _drawn(picked.model, prepared, maps.patch, words, drawing)
    return _drawn(picked.model, prepared, maps.cls, "[CLS] attention, mean of the heads", drawing)


def token_panel(looks: Looks, picked: Picked, kind: str, across: float, down: float, strength: float) -> Panel:
    """The patch tokens over the picture.

    Args:
        looks: Memory of results.
        picked: Picture, model and detail.
        kind: One of :data:`TOKEN_KINDS`.
        across: How far from the left the chosen patch lies, in [0, 1].
        down: How far from the top it lies, in [0, 1].
        strength: Share of the map's colour over the picture.

    Raises:
        ValueError: If the picture or the model cannot be used.
    """
    prepared, tokens = looks.result(_tokens, picked.path, picked.model, picked.detail)
    size = (prepared.shown.shape[0], prepared.shown.shape[1])
    rows, columns = tokens.shape[1:3]
    if kind == TOKEN_KINDS[1]:
        colours = upsample(principal_colours(tokens).permute(0, 3, 1, 2), size)[0].permute(1, 2, 0).numpy()
        picture = blended(prepared.shown, colours, strength)
        return Panel(picked.model, picture, f"first three principal components of {rows}×{columns} patch tokens")
    if kind == TOKEN_KINDS[2]:
        mask = upsample(foreground_mask(tokens).float(), size)[0]
        return Panel(
            picked.model, overlay(prepared.shown, mask, strength), "foreground by the normalised cut of tokens"
        )
    row, column = min(int(down * rows), rows - 1), min(int(across * columns), columns - 1)
    similarity = upsample(patch_similarity(tokens, row, column).clamp_min(0), size)[0]
    words = f"cosine similarity to the patch in row {row + 1} of {rows}, column {column + 1} of {columns}"
    return Panel(picked.model, overlay(prepared.shown, similarity, strength), words)


def gradient_panel(looks: Looks, picked: Picked, kind: str, drawing: Drawing) -> Panel:
    """Grad-CAM, saliency or windowed attention over the picture.

    Args:
        looks: Memory of results.
        picked: Picture, model and detail.
        kind: One of :data:`GRADIENT_KINDS`.
        drawing: Threshold and strength.

    Raises:
        ValueError: If the picture or the model cannot be used.
    """
    if kind == GRADIENT_KINDS[2]:
        if not attends_in_windows(looks.models.get(picked.model)[0]):
            return Panel(picked.model, None, "this is no Swin, its attention knows no windows: see Attention")
        prepared, windows = looks.result(_windows, picked.path, picked.model, picked.detail)
        return _drawn(picked.model, prepared, windows, "attention within the last block's windows", drawing)
    prepared, maps = looks.result(_gradients, picked.path, picked.model, picked.detail)
    chosen = maps.cam if kind == GRADIENT_KINDS[0] else relative_to_range(maps.saliency)
    return _drawn(picked.model, prepared, chosen, f"{kind} of the {maps.scores[0]}", drawing)


def _drawn(model: str, prepared: PreparedImage, maps: Tensor, words: str, drawing: Drawing) -> Panel:
    """A map (1, rows, columns) over the picture."""
    if drawing.mass < 1:
        maps = maps * mass_mask(maps, drawing.mass)
        words += f"; shown is where {drawing.mass:.0%} of it lies"
    large = upsample(maps.float(), (prepared.shown.shape[0], prepared.shown.shape[1]))[0]
    return Panel(model, overlay(prepared.shown, large, drawing.strength), words)


def _attention(network: Any, prepared: PreparedImage) -> AttentionMaps:
    return attention_maps(network, prepared.pixel_values)


def _rollout(network: Any, prepared: PreparedImage) -> Tensor:
    return attention_rollout(network, prepared.pixel_values)


def _tokens(network: Any, prepared: PreparedImage) -> Tensor:
    return token_map(network, prepared.pixel_values)


def _gradients(network: Any, prepared: PreparedImage) -> GradientMaps:
    return gradient_maps(network, prepared.pixel_values)


def _windows(network: Any, prepared: PreparedImage) -> Tensor:
    return window_attention(network, prepared.pixel_values)
