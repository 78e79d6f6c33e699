"""The board below the tabs: one view of one picture by up to three models, each drawn as soon as it is ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from space_app.panels import Panel, render_message, render_panels
from space_app.views import (
    ATTENTION_KINDS,
    GRADIENT_KINDS,
    TOKEN_KINDS,
    OverlaySettings,
    ResultCache,
    Selection,
    draw_attention,
    draw_gradients,
    draw_segments,
    draw_tokens,
)
from synco_hub.feature_pooling import compute_image_features, find_feature_network, find_feature_rule
from synco_hub.visualization.overlay import PreparedImage

ATTENTION, TOKENS, SEGMENTS = "Attention", "Tokens", "Segments"
GRADIENTS, FEATURES, ABOUT = "Gradients and windows", "Features", "About"
MOST_MODELS = 3
MOST_NEIGHBOURS = 5
NO_PICTURE = "Upload a picture, take one, or choose an example."


@dataclass(frozen=True)
class Controls:
    """What all controls of the page say.

    Attributes:
        detail: Factor on the models' own input size.
        mass: Share of a map that is shown, in (0, 1].
        strength: Share of the map's colour over the picture.
        attention: Kind of attention map.
        head: Which head, from 1.
        tokens: Kind of token map.
        across: Chosen patch, share of the width from the left.
        down: Chosen patch, share of the height from the top.
        points: Points of classes, see `views.read_points`.
        gradients: Kind of gradient map.
        other: The second picture of a comparison, if there is one.
    """

    detail: int = 1
    mass: float = 1.0
    strength: float = 0.6
    attention: str = ATTENTION_KINDS[0]
    head: int = 1
    tokens: str = TOKEN_KINDS[0]
    across: float = 0.5
    down: float = 0.5
    points: str = ""
    gradients: str = GRADIENT_KINDS[0]
    other: str | None = None


def render_board(
    results: ResultCache,
    view: str,
    path: str | None,
    names: Sequence[str],
    controls: Controls,
    examples: Mapping[str, Path],
) -> Iterator[str]:
    """The board of a tab as HTML, growing model by model; `examples` are paths by caption."""
    if view == ABOUT:
        yield ""
    elif path is None:
        yield render_message(NO_PICTURE)
    elif view == FEATURES:
        sections = ""
        for name in check_names(names):
            sections += f"<h3>{escape(name)}</h3>{_render_comparison(results, path, name, controls.other, examples)}"
            yield sections
    else:
        for panels in draw_panels(results, view, path, names, controls):
            yield render_panels(panels, clickable=view in (TOKENS, SEGMENTS))


def check_names(names: Sequence[str]) -> list[str]:
    """One to three different names, or a ValueError."""
    different = list(dict.fromkeys(name.strip() for name in names or [] if name.strip()))
    if not different:
        raise ValueError("No model chosen: choose one to three.")
    if len(different) > MOST_MODELS:
        raise ValueError(f"{len(different)} models chosen: at most {MOST_MODELS} are shown side by side.")
    return different


# Attention, tokens, gradients: a map of the picture by each model


def draw_panels(
    results: ResultCache, view: str, path: str | None, names: Sequence[str], controls: Controls
) -> Iterator[list[Panel]]:
    """The panels of a view of one picture so far, growing model by model.

    A model that must be loaded first is blank meanwhile, one that fails says why. A ValueError says what is wrong with
    the picture or the choice of models.
    """
    panels: list[Panel] = []
    for name in check_names(names):
        selection = Selection(path, name, int(controls.detail))
        if name not in results.models:
            yield [*panels, Panel(name, None, "loading the model …", "waiting")]
        try:
            panels.append(_draw_panel(results, view, selection, controls))
        except ValueError as error:
            panels.append(Panel(name, None, str(error), "problem"))
        yield list(panels)
    problems = list(dict.fromkeys(panel.description for panel in panels if panel.without == "problem"))
    if len(problems) == 1 and all(panel.without == "problem" for panel in panels):
        raise ValueError(problems[0])  # the same of all models: it is the picture's


def _draw_panel(results: ResultCache, view: str, selection: Selection, controls: Controls) -> Panel:
    if view == TOKENS:
        return draw_tokens(results, selection, controls.tokens, controls.across, controls.down, controls.strength)
    if view == SEGMENTS:
        return draw_segments(results, selection, controls.points, controls.strength)
    settings = OverlaySettings(controls.mass, controls.strength)
    if view == GRADIENTS:
        return draw_gradients(results, selection, controls.gradients, settings)
    return draw_attention(results, selection, controls.attention, int(controls.head), settings)


# Features: two pictures as a model compares them at its own size, and the nearest neighbours among the examples


def describe_similarity(results: ResultCache, model: str, path: str | None, other: str) -> str:
    """How alike two pictures are to a model, in a sentence."""
    first, second = (results.get(_feature, Selection(picture, model))[1] for picture in (path, other))
    return f"{model}: cosine similarity {float(F.cosine_similarity(first, second)):.3f}"


def find_neighbours(results: ResultCache, model: str, path: str | None, examples: Mapping[str, Path]) -> list[Panel]:
    """The example pictures whose features are nearest to a picture's, the nearest first."""
    _, feature = results.get(_feature, Selection(path, model))
    prepared, features = zip(
        *(results.get(_feature, Selection(str(example), model)) for example in examples.values()), strict=True
    )
    similarity = F.cosine_similarity(feature, torch.cat(features))
    values, order = similarity.sort(descending=True, stable=True)
    captions = list(examples)
    return [
        Panel(captions[index], prepared[index].shown, f"cosine similarity {value:.3f}")
        for value, index in zip(values.tolist()[:MOST_NEIGHBOURS], order.tolist()[:MOST_NEIGHBOURS], strict=True)
    ]


def _render_comparison(
    results: ResultCache, path: str, model: str, other: str | None, examples: Mapping[str, Path]
) -> str:
    section = ""
    try:
        if other is not None:
            section += f"<p class='finding'>{escape(describe_similarity(results, model, path, other))}</p>"
        return section + render_panels(find_neighbours(results, model, path, examples), small=True)
    except ValueError as error:
        return section + render_message(str(error), problem=True)


def _feature(network: Any, prepared: PreparedImage) -> Tensor:
    with torch.no_grad():
        return compute_image_features(find_feature_network(network), prepared.pixel_values, find_feature_rule(network))
