"""The views of the Space: from a picture, a model and the controls to one panel of the board.

What a model computes for a picture is remembered: moving a slider draws again but never runs the model again.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from space_app.model_cache import ModelCache
from space_app.panels import Panel
from space_app.uploads import decode_upload, read_upload
from synco_hub.data.davis import PALETTE
from synco_hub.visualization import (
    AttentionMaps,
    GradientMaps,
    attends_in_windows,
    attention_maps,
    attention_rollout,
    blended,
    class_similarity,
    foreground_mask,
    gradient_maps,
    mass_mask,
    overlay,
    patch_similarity,
    prepared_image,
    principal_colours,
    relative_to_range,
    token_map,
    upsample,
    window_attention,
)
from synco_hub.visualization.overlay import PreparedImage

SHOWN_SIDE = 384
MOST_CLASSES, MOST_POINTS = 4, 100
_COMPUTED_AT_ONCE = 2
ATTENTION_KINDS = ("[CLS], mean of the heads", "[CLS], one head", "patch self-attention", "rollout through all blocks")
TOKEN_KINDS = ("similarity to one patch", "principal components", "foreground")
GRADIENT_KINDS = ("Grad-CAM", "saliency", "windowed attention")
_Result = TypeVar("_Result")


# What models compute for pictures


@dataclass(frozen=True)
class Selection:
    """What a visitor looks at.

    Attributes:
        path: The upload.
        model: Name of the model.
        detail: Factor on the model's own input size.
    """

    path: str | None
    model: str
    detail: int = 1


class ResultCache:
    """A bounded memory of results by content of the picture, model, detail and kind."""

    def __init__(self, models: ModelCache, keep: int = 64) -> None:
        self.models = models
        self._keep = keep
        self._results: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()
        # More at once would share the same cores and multiply the memory; whoever waits for a model takes no place.
        self._computing = threading.BoundedSemaphore(_COMPUTED_AT_ONCE)
        self.computed = 0

    def __len__(self) -> int:
        return len(self._results)

    def get(
        self, compute: Callable[[Any, PreparedImage], _Result], selection: Selection
    ) -> tuple[PreparedImage, _Result]:
        """The prepared picture and what `compute` gives for it and the model, from memory if it is there.

        The name of `compute` is part of the key. A ValueError says why the picture or the model cannot be used.
        """
        data = read_upload(selection.path)
        key = (compute.__name__, hashlib.sha256(data).digest(), selection.model, selection.detail)
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        result = self._compute(compute, decode_upload(data), selection)
        with self._lock:
            self.computed += 1
            self._results[key] = result
            while len(self._results) > self._keep:
                self._results.popitem(last=False)
        return result

    def _compute(
        self, compute: Callable[[Any, PreparedImage], _Result], picture: Image.Image, selection: Selection
    ) -> tuple[PreparedImage, _Result]:
        network, processor = self.models.get(selection.model)
        with self._computing:
            prepared = prepared_image(picture, processor, selection.detail, SHOWN_SIDE)
            return prepared, compute(network, prepared)


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


# How they are drawn


@dataclass(frozen=True)
class OverlaySettings:
    """How a map is drawn over the picture.

    Attributes:
        mass: Share of the map's sum that is shown, in (0, 1].
        strength: Share of the map's colour over the picture.
    """

    mass: float = 1.0
    strength: float = 0.6


def draw_attention(
    results: ResultCache, selection: Selection, kind: str, head: int, settings: OverlaySettings
) -> Panel:
    """One of :data:`ATTENTION_KINDS` of a ViT over the picture; heads count from 1."""
    model = selection.model
    if attends_in_windows(results.models.get(model)[0]):
        return Panel(model, None, "a Swin attends within windows, without [CLS]: see Gradients and windows")
    if kind == ATTENTION_KINDS[3]:
        prepared, rollout = results.get(_rollout, selection)
        return _draw_map(model, prepared, rollout, "attention of [CLS] rolled out through all blocks", settings)
    prepared, maps = results.get(_attention, selection)
    if kind == ATTENTION_KINDS[1]:
        head = min(head, maps.heads.shape[1])
        words = f"[CLS] attention of head {head} of {maps.heads.shape[1]}"
        return _draw_map(model, prepared, maps.heads[:, head - 1], words, settings)
    if kind == ATTENTION_KINDS[2]:
        words = "mean attention that each patch receives from the others"
        return _draw_map(model, prepared, maps.patch, words, settings)
    return _draw_map(model, prepared, maps.cls, "[CLS] attention, mean of the heads", settings)


def draw_tokens(
    results: ResultCache, selection: Selection, kind: str, across: float, down: float, strength: float
) -> Panel:
    """One of :data:`TOKEN_KINDS` over the picture; `across` and `down` in [0, 1] say where the chosen patch lies."""
    model = selection.model
    prepared, tokens = results.get(_tokens, selection)
    size = (prepared.shown.shape[0], prepared.shown.shape[1])
    rows, columns = tokens.shape[1:3]
    if kind == TOKEN_KINDS[1]:
        colours = upsample(principal_colours(tokens).permute(0, 3, 1, 2), size)[0].permute(1, 2, 0).numpy()
        picture = blended(prepared.shown, colours, strength)
        return Panel(model, picture, f"first three principal components of {rows}×{columns} patch tokens")
    if kind == TOKEN_KINDS[2]:
        mask = upsample(foreground_mask(tokens).float(), size)[0]
        return Panel(model, overlay(prepared.shown, mask, strength), "foreground by the normalised cut of tokens")
    row, column = min(int(down * rows), rows - 1), min(int(across * columns), columns - 1)
    similarity = upsample(patch_similarity(tokens, row, column).clamp_min(0), size)[0]
    words = f"cosine similarity to the patch in row {row + 1} of {rows}, column {column + 1} of {columns}"
    return Panel(model, overlay(prepared.shown, similarity, strength), words)


def draw_segments(results: ResultCache, selection: Selection, points: str, strength: float) -> Panel:
    """Each pixel in the colour of the class whose chosen patches its own is most like; see :func:`read_points`."""
    chosen = read_points(points)
    prepared, tokens = results.get(_tokens, selection)
    if not chosen:
        return Panel(selection.model, prepared.shown, "no point yet: click a picture, or write a line")
    rows, columns = tokens.shape[1:3]
    places = [(min(int(down * rows), rows - 1), min(int(across * columns), columns - 1)) for _, across, down in chosen]
    similar = class_similarity(tokens, places, [number - 1 for number, _, _ in chosen])
    height, width = prepared.shown.shape[:2]
    colours = np.array(PALETTE[1 : MOST_CLASSES + 1], dtype=np.float32) / 255
    mask = upsample(similar, (height, width)).argmax(dim=0).numpy()
    picture = blended(prepared.shown, colours[mask], strength).copy()
    for number, across, down in chosen:
        top, left = int(down * (height - 1)), int(across * (width - 1))
        for side, colour in ((5, 1.0), (3, colours[number - 1])):
            picture[max(top - side, 0) : top + side + 1, max(left - side, 0) : left + side + 1] = colour
    numbers = sorted({number for number, _, _ in chosen})
    words = f"patches by the nearest of {len(chosen)} points of class{'es' * (len(numbers) > 1)} "
    return Panel(selection.model, picture, words + ", ".join(map(str, numbers)))


def read_points(text: str) -> list[tuple[int, float, float]]:
    """Class, from 1, and place of each point, a line each: `1 0.25 0.5` lies a quarter from the left, half down."""
    points = []
    for line in filter(None, map(str.strip, (text or "").splitlines()[:MOST_POINTS])):
        try:
            number, across, down = line.split()
            point = int(number), float(across), float(down)
        except ValueError:
            raise ValueError(f"{line[:40]!r} is no point: a line is a class and two shares, as 1 0.25 0.5.") from None
        if not (1 <= point[0] <= MOST_CLASSES and 0 <= point[1] <= 1 and 0 <= point[2] <= 1):
            raise ValueError(f"{line[:40]!r} is no point: classes are 1 to {MOST_CLASSES}, shares 0 to 1.")
        points.append(point)
    return points


def draw_gradients(results: ResultCache, selection: Selection, kind: str, settings: OverlaySettings) -> Panel:
    """One of :data:`GRADIENT_KINDS` over the picture."""
    model = selection.model
    if kind == GRADIENT_KINDS[2]:
        if not attends_in_windows(results.models.get(model)[0]):
            return Panel(model, None, "this is no Swin, its attention knows no windows: see Attention")
        prepared, windows = results.get(_windows, selection)
        return _draw_map(model, prepared, windows, "attention within the last block's windows", settings)
    prepared, maps = results.get(_gradients, selection)
    chosen = maps.cam if kind == GRADIENT_KINDS[0] else relative_to_range(maps.saliency)
    return _draw_map(model, prepared, chosen, f"{kind} of the {maps.scores[0]}", settings)


def _draw_map(model: str, prepared: PreparedImage, maps: Tensor, words: str, settings: OverlaySettings) -> Panel:
    """A map (1, rows, columns) over the picture."""
    if settings.mass < 1:
        maps = maps * mass_mask(maps, settings.mass)
        words += f"; shown is where {settings.mass:.0%} of it lies"
    large = upsample(maps.float(), (prepared.shown.shape[0], prepared.shown.shape[1]))[0]
    return Panel(model, overlay(prepared.shown, large, settings.strength), words)
