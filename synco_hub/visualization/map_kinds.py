"""Every kind of map by name, for one prepared image and one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from synco_hub.feature_adapter import feature_network
from synco_hub.visualization.attention_maps import attention_maps, mass_mask, upsample
from synco_hub.visualization.attention_rollout import attention_rollout
from synco_hub.visualization.foreground import foreground_mask
from synco_hub.visualization.gradient_maps import gradient_maps
from synco_hub.visualization.last_attention import attends_in_windows
from synco_hub.visualization.overlay import FloatArray, blended, overlay, relative_to_range
from synco_hub.visualization.prepared_image import PreparedImage
from synco_hub.visualization.token_map import principal_colours, token_map
from synco_hub.visualization.window_attention import window_attention


@dataclass(frozen=True)
class MapKind:
    """One kind of map.

    Attributes:
        title: What stands above its column.
        compute: From a model and pixel values (1, 3, height, width) to a map (1, rows, columns), not negative, or to
            colours (1, rows, columns, 3).
        is_attention: Whether a share of its sum can be cut out.
    """

    title: str
    compute: Callable[[nn.Module, Tensor], Tensor]
    is_attention: bool = True


MAP_KINDS: dict[str, MapKind] = {
    "cls": MapKind("[CLS] attention", lambda model, pixels: attention_maps(model, pixels).cls),
    "patch": MapKind("Patch self-attention", lambda model, pixels: attention_maps(model, pixels).patch),
    "rollout": MapKind("Attention rollout", attention_rollout),
    "cam": MapKind("Grad-CAM", lambda model, pixels: gradient_maps(model, pixels).cam),
    "saliency": MapKind("Saliency", lambda model, pixels: relative_to_range(gradient_maps(model, pixels).saliency)),
    "windows": MapKind("Windowed attention", window_attention),
    "tokens": MapKind("Token components", lambda model, pixels: principal_colours(token_map(model, pixels)), False),
    "foreground": MapKind(
        "Foreground", lambda model, pixels: foreground_mask(token_map(model, pixels)).float(), False
    ),
}


def paper_kinds(model: nn.Module) -> list[str]:
    """What the paper shows of a model: Figures 6 to 10 of a ViT, Figures 11 to 15 of a Swin."""
    return ["cam", "saliency"] if attends_in_windows(feature_network(model)) else ["cls", "patch"]


def drawn_map(
    kind: str,
    model: nn.Module,
    prepared: PreparedImage,
    mass: float | None = None,
    strength: float = 1.0,
    colour_map: str = "viridis",
) -> FloatArray:
    """A map of one image by one model, in colour.

    Args:
        kind: A key of :data:`MAP_KINDS`.
        model: A ViT or Swin.
        prepared: The image.
        mass: Share of an attention or gradient map's sum that is shown; None for all.
        strength: Share of the map's colour over the image; 1 shows the map alone.
        colour_map: See :func:`synco_hub.visualization.overlay.overlay`.

    Returns:
        Values in [0, 1]. Shape: as ``prepared.shown``.

    Raises:
        ValueError: If the kind is unknown or does not fit the model.
    """
    if kind not in MAP_KINDS:
        raise ValueError(f"kind {kind!r} is unknown: choose among {', '.join(MAP_KINDS)}")
    maps = MAP_KINDS[kind].compute(model, prepared.pixel_values).float()
    size = (prepared.shown.shape[0], prepared.shown.shape[1])
    if maps.ndim == 4:
        colours = upsample(maps.permute(0, 3, 1, 2), size)[0].permute(1, 2, 0).cpu().numpy()
        return blended(prepared.shown, colours, strength)
    if mass is not None and MAP_KINDS[kind].is_attention:
        maps = maps * mass_mask(maps, mass)
    return overlay(prepared.shown, upsample(maps, size)[0], strength, colour_map)
