"""The board below the tabs: one view of one picture by up to three models, each drawn as soon as it is ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from space_app.comparison import nearest_panels, similarity_sentence
from space_app.looks import Looks
from space_app.panels import Panel, message_html, panels_html
from space_app.views import (
    ATTENTION_KINDS,
    GRADIENT_KINDS,
    TOKEN_KINDS,
    Drawing,
    Picked,
    attention_panel,
    gradient_panel,
    token_panel,
)

ATTENTION, TOKENS, GRADIENTS, FEATURES, ABOUT = "Attention", "Tokens", "Gradients and windows", "Features", "About"
MOST_MODELS = 3


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
    gradients: str = GRADIENT_KINDS[0]
    other: str | None = None


def board_panels(
    looks: Looks, view: str, path: str | None, names: Sequence[str], controls: Controls
) -> Iterator[list[Panel]]:
    """The panels of a view of one picture, growing model by model.

    Args:
        looks: Memory of results.
        view: Attention, Tokens or Gradients.
        path: The upload.
        names: Models, one to three.
        controls: All settings.

    Yields:
        The panels so far; a model that must be loaded first is blank meanwhile, one that fails says why.

    Raises:
        ValueError: If the picture or the choice of models cannot be used, or no model can show the picture.
    """
    panels: list[Panel] = []
    for name in checked_names(names):
        picked = Picked(path, name, int(controls.detail))
        if name not in looks.models:
            yield [*panels, Panel(name, None, "loading the model …", "waiting")]
        try:
            panels.append(_panel(looks, view, picked, controls))
        except ValueError as error:
            panels.append(Panel(name, None, str(error), "problem"))
        yield list(panels)
    problems = list(dict.fromkeys(panel.description for panel in panels if panel.without == "problem"))
    if len(problems) == 1 and all(panel.without == "problem" for panel in panels):
        raise ValueError(problems[0])  # the same of all models: it is the picture's


def board_html(
    looks: Looks,
    view: str,
    path: str | None,
    names: Sequence[str],
    controls: Controls,
    examples: Mapping[str, Path],
) -> Iterator[str]:
    """The board as HTML, growing model by model; arguments as in :func:`board_panels`.

    Args:
        looks: Memory of results.
        view: Name of the tab.
        path: The upload.
        names: Models, one to three.
        controls: All settings.
        examples: Path of each example picture by its caption.

    Yields:
        HTML of the board.

    Raises:
        ValueError: If the picture or a model cannot be used.
    """
    if view == ABOUT:
        yield ""
    elif path is None:
        yield message_html("Upload a picture, take one, or choose an example.")
    elif view == FEATURES:
        sections = ""
        for name in checked_names(names):
            picked = Picked(path, name)
            sections += f"<h3>{escape(name)}</h3>"
            try:
                if controls.other is not None:
                    sections += f"<p class='finding'>{escape(similarity_sentence(looks, picked, controls.other))}</p>"
                sections += panels_html(nearest_panels(looks, picked, examples), small=True)
            except ValueError as error:
                sections += message_html(str(error), problem=True)
            yield sections
    else:
        for panels in board_panels(looks, view, path, names, controls):
            yield panels_html(panels, clickable=view == TOKENS)


def checked_names(names: Sequence[str]) -> list[str]:
    """One to three different names.

    Raises:
        ValueError: If there is none, or there are too many.
    """
    different = list(dict.fromkeys(name.strip() for name in names or [] if name.strip()))
    if not different:
        raise ValueError("No model chosen: choose one to three.")
    if len(different) > MOST_MODELS:
        raise ValueError(f"{len(different)} models chosen: at most {MOST_MODELS} are shown side by side.")
    return different


def _panel(looks: Looks, view: str, picked: Picked, controls: Controls) -> Panel:
    drawing = Drawing(controls.mass, controls.strength)
    if view == TOKENS:
        return token_panel(looks, picked, controls.tokens, controls.across, controls.down, controls.strength)
    if view == GRADIENTS:
        return gradient_panel(looks, picked, controls.gradients, drawing)
    return attention_panel(looks, picked, controls.attention, int(controls.head), drawing)
