"""The views of the Space: from a picture, a model and the controls to one panel of the board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from space_app.looks import Looks
from space_app.panels import Panel
from synco_hub.visualization import AttentionMaps, attention_maps, mass_mask, overlay
from synco_hub.visualization.attention_maps import upsample
from synco_hub.visualization.prepared_image import PreparedImage

ATTENTION_KINDS = ("[CLS] attention", "[CLS] attention, one head", "patch self-attention")


@dataclass(frozen=True)
class AttentionControls:
    """What the attention view is asked for.

    Attributes:
        kind: One of :data:`ATTENTION_KINDS`.
        head: Which head, from 1, if one is shown.
        mass: Share of the attention that is shown, in (0, 1].
        strength: Share of the map's colour over the picture.
    """

    kind: str = ATTENTION_KINDS[0]
    head: int = 1
    mass: float = 1.0
    strength: float = 0.6


def attention_panel(looks: Looks, path: str | None, model: str, detail: int, controls: AttentionControls) -> Panel:
    """Attention of a model's last block over the picture.

    Raises:
        ValueError: If the picture or the model cannot be used.
    """
    prepared, maps = looks.result(_attention, path, model, detail)
    shown, words = _chosen_map(maps, controls)  # (1, rows, columns)
    if controls.mass < 1:
        shown = shown * mass_mask(shown, controls.mass)
        words += f", the patches that hold {controls.mass:.0%} of it"
    large = upsample(shown, prepared.shown.shape[:2])[0]
    return Panel(model, overlay(prepared.shown, large, controls.strength), words)


def _attention(network: Any, prepared: PreparedImage) -> AttentionMaps:
    return attention_maps(network, prepared.pixel_values)


def _chosen_map(maps: AttentionMaps, controls: AttentionControls) -> tuple[Tensor, str]:
    if controls.kind == ATTENTION_KINDS[1]:
        head = min(controls.head, maps.heads.shape[1])
        return maps.heads[:, head - 1], f"[CLS] attention of head {head} of {maps.heads.shape[1]}"
    if controls.kind == ATTENTION_KINDS[2]:
        return maps.patch, "mean attention that each patch receives from the others"
    return maps.cls, "[CLS] attention, mean of the heads"
