"""`synco-hub attention`: what checkpoints attend to in images, as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from synco_hub.cli.options import AttentionOptions
from synco_hub.data import decode_rgb
from synco_hub.hub.loading import load_with_head
from synco_hub.hub.model_names import find_revision
from synco_hub.visualization import (
    MAP_KINDS,
    FigureStyle,
    GridColumn,
    attends_in_windows,
    attention_figure,
    attention_maps,
    class_score,
    drawn_map,
    grid_figure,
    paper_kinds,
    prepared_image,
    save_figure,
)
from synco_hub.visualization.figures import CLS_AND_PATCH
from synco_hub.visualization.overlay import PreparedImage, as_rgb, pad_to_be_seen_whole, show_same_part

_SHOWN_SIDE = 224


def attention(options: AttentionOptions) -> None:
    """`synco-hub attention`."""
    pictures = [decode_rgb(path) for path in options.image]
    models = {
        title: load_with_head(name, find_revision(name, revision).commit)
        for title, (name, revision) in _titles(options.model, _revisions(options)).items()
    }
    first, processor = next(iter(models.values()))
    if len(models) == len(pictures) == 1 and not options.kind and not attends_in_windows(first):
        figure = _heads_figure(first, processor, pictures[0], next(iter(models)), options)
    else:
        figure = _grid(models, pictures, options)
    print(f"wrote {save_figure(figure, options.output)}")


def _revisions(options: AttentionOptions) -> list[str | None]:
    """Of each model."""
    given, count = options.model_revision, len(options.model)
    if given is None:
        return [None] * count
    if len(given) != count:
        raise ValueError(
            f"--model-revision {' '.join(given)}: {len(given)} for {count} models; give one each, '' for none."
        )
    return [revision or None for revision in given]


def _titles(names: list[str], revisions: list[str | None]) -> dict[str, tuple[str, str | None]]:
    """What each model is called in the figure: a checkpoint directory by its last part, if that names one alone."""
    short = [Path(name).resolve().name if Path(name).is_dir() else name for name in names]
    titles = [title if short.count(title) == 1 else name for title, name in zip(short, names, strict=True)]
    return {
        title if revision is None else f"{title} at {revision}": (name, revision)
        for title, name, revision in zip(titles, names, revisions, strict=True)
    }


def _heads_figure(network: Any, processor: Any, picture: Any, title: str, options: AttentionOptions) -> Figure:
    prepared = _prepare(picture, processor, options)
    maps = attention_maps(network, prepared.pixel_values)
    shown = _name_shown_part([picture], [prepared], options)
    style = FigureStyle(mass=options.mass, title=title, strength=options.strength, input_title=shown)
    return attention_figure(prepared.shown, maps, style)


def _grid(models: dict[str, tuple[Any, Any]], pictures: list[Any], options: AttentionOptions) -> Figure:
    columns: list[GridColumn] = []
    notes: list[str] = []
    inputs: list[Any] = []
    shown_kinds: set[str] = set()
    for name, (network, processor) in models.items():
        prepared = [_prepare(picture, processor, options) for picture in pictures]
        if not _same_pictures(inputs, [each.shown for each in prepared]):
            # Maps lie over what their own model saw: another size or crop is shown before them.
            inputs = [each.shown for each in prepared]
            columns.append(GridColumn("", _name_shown_part(pictures, prepared, options), inputs))
        kinds = options.kind or paper_kinds(network)
        shown_kinds |= set(kinds)
        for kind in kinds:
            drawn = [drawn_map(kind, network, each, options.mass, options.strength) for each in prepared]
            columns.append(GridColumn(name, MAP_KINDS[kind].title, drawn))
        if {"cam", "saliency"} & set(kinds):
            notes.append(_note(name, network, prepared))
    if "cls" in shown_kinds and "patch" in shown_kinds:
        notes.append(CLS_AND_PATCH)
    return grid_figure(columns, note="\n".join(notes) or None)


def _prepare(picture: Any, processor: Any, options: AttentionOptions) -> PreparedImage:
    whole = pad_to_be_seen_whole(picture, processor) if options.whole else picture
    return prepared_image(whole, processor, options.detail, _SHOWN_SIDE)


def _name_shown_part(pictures: list[Any], prepared: list[PreparedImage], options: AttentionOptions) -> str:
    """What the input's panels are called: whether the model sees the whole of every image."""
    if options.whole:
        return "Input (padded)"
    for picture, each in zip(pictures, prepared, strict=True):
        height, width = each.shown.shape[:2]
        # A picture that is squeezed is not cut.
        if not show_same_part(as_rgb(picture.resize((width, height))), each.shown):
            return "Input (centre crop)"
    return "Input"


def _same_pictures(ours: list[Any], theirs: list[Any]) -> bool:
    """Whether both show the same part of the images; sizes and last bits may differ."""
    return len(ours) == len(theirs) and all(show_same_part(a, b) for a, b in zip(ours, theirs, strict=True))


def _note(name: str, network: Any, prepared: list[Any]) -> str:
    """What the gradients are of: it cannot be seen in the maps."""
    with torch.no_grad():
        of = [class_score(network, each.pixel_values).descriptions[0] for each in prepared]
    words = (
        of[0]
        if len(set(of)) == 1
        else ", ".join(f"{description} (row {row})" for row, description in enumerate(of, 1))
    )
    print(f"{name}: Grad-CAM and saliency of the {words}")
    return f"{name}: gradients of the {words}"
