"""The pictures of an embedded data set that are most like given ones: exact, by the model that embedded it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image

from synco_hub.data import decode_rgb
from synco_hub.embedding import choose_rule, open_splits, read_out
from synco_hub.embedding_tables import Embeddings
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.nearest_neighbours import SearchBlocks, find_best_keys, unpack
from synco_hub.feature_pooling import find_feature_network
from synco_hub.features import choose_device, eval_mode
from synco_hub.hub.loading import load_model
from synco_hub.settings import DatasetChoice, EmbeddingSettings
from synco_hub.visualization.overlay import as_rgb
from synco_hub.weights_identity import hash_weights

_BATCH = 64
_INCHES = 1.4


@dataclass(frozen=True)
class Match:
    """A picture that is like a query.

    Attributes:
        file_name: Its path in the data set.
        split: `train`, `test`, or "".
        label: Name of its class; "" where there is none.
        similarity: Cosine of the two vectors, from -1 to 1.
        row: Its place in the table.
    """

    file_name: str
    split: str
    label: str
    similarity: float
    row: int


@dataclass(frozen=True)
class Found:
    """A query with what is most like it, the most similar first."""

    query: str
    matches: tuple[Match, ...]


def search(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    table: str | os.PathLike[str],
    count: int = 5,
    device: str | None = None,
) -> list[Found]:
    """Find the pictures of a table of `embed` that are most like given ones.

    Args:
        images: Files of images, and folders of them.
        table: What `embed` wrote. Its model embeds the queries too.
        count: How many for each query.
        device: Where the model runs and similarities are computed; None for the best there is.

    Returns:
        One entry a query, in their order; equally similar pictures in the order of the table.

    Raises:
        ValueError: If the model of that name has other weights now, the table holds patches, or a query cannot be
            read.
        OSError: If table, model or queries are not there.
    """
    if count < 1:
        raise ValueError(f"count={count}: give at least 1")
    given = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    files = [file for each in given for file in _list_files(Path(each))]
    device = choose_device(device)
    embeddings = Embeddings.read(table)
    vectors = _embed_queries(files, embeddings, table, device)
    bank = torch.from_numpy(embeddings.vectors)
    if not len(bank):
        raise ValueError(f"{str(table)!r} holds no image: embed a folder that has some")
    if bank.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"{str(table)!r} holds vectors of {bank.shape[1]} numbers, and {embeddings.facts['model']['name']!r} "
            f"gives {vectors.shape[1]}: embed the images again"
        )
    keys = find_best_keys(bank, vectors, min(count, len(bank)), device, SearchBlocks())
    similarities, rows = unpack(keys.cpu())
    return [
        Found(str(file), tuple(_describe(embeddings, row, value) for row, value in zip(*both, strict=True)))
        for file, *both in zip(files, rows.tolist(), similarities.tolist(), strict=True)
    ]


def _list_files(place: Path) -> list[Path]:
    if not place.is_dir():
        if not place.is_file():
            raise FileNotFoundError(f"{str(place)!r} does not exist: give an image or a folder of images")
        return [place]
    everything = open_splits(DatasetChoice(str(place)), "all", None)
    return [place / images.name(k) for images, _ in everything for k in range(len(images))]


def _embed_queries(files: Sequence[Path], table: Embeddings, place: Any, device: str) -> torch.Tensor:
    facts = table.facts
    if facts["what"] == "patches":
        raise ValueError(
            f"{str(place)!r} holds the patches of images: search needs one vector an image, without --what"
        )
    about = facts["model"]
    at: dict[str, Any] = {"revision": about["revision"]} if re.fullmatch("[0-9a-f]{40}", about["revision"]) else {}
    network, processor = load_model(about["name"], **at)
    if hash_weights(find_feature_network(network)) != about["weights"]:
        raise ValueError(
            f"{str(place)!r} was made by other weights of {about['name']!r} than are there now: embed the images again"
        )
    model = EvaluatedModel(network, processor, about["name"])
    if json.loads(json.dumps(model.transform.facts())) != facts["preprocessing"]:
        raise ValueError(
            f"{str(place)!r} was made with another preprocessing of {about['name']!r} than its image processor says "
            "now: embed the images again"
        )
    settings = EmbeddingSettings(what=facts["what"], precision=facts["precision"])
    rule, found = choose_rule(model, settings.what), []
    with eval_mode(find_feature_network(network), device) as running:
        for start in range(0, len(files), _BATCH):
            pixels = torch.stack([model.transform(decode_rgb(file)) for file in files[start : start + _BATCH]])
            found.append(read_out(running, pixels.to(device), settings, rule).cpu())
    return torch.cat(found)


def _describe(table: Embeddings, row: int, similarity: float) -> Match:
    label = -1 if table.labels is None else int(table.labels[row])
    name = table.class_names[label] if 0 <= label < len(table.class_names) else ""
    return Match(table.file_names[row], table.splits[row], name, similarity, row)


def open_images(table: Embeddings) -> dict[tuple[str, str], Any]:
    """Functions that open the images of a table, by split and name."""
    choice = DatasetChoice(**table.facts["choice"])
    return {
        (split, images.name(k)): (lambda images=images, k=k: images.load_image(k))
        for images, splits in open_splits(choice, table.facts["split"], None)
        for k, split in enumerate(splits)
    }


def draw_matches(found: Sequence[Found], table: Embeddings) -> Figure:
    """A row for each query: the picture, then what is most like it, with similarity and class."""
    opened = open_images(table)
    columns = 1 + max(len(each.matches) for each in found)
    figure = Figure(figsize=(_INCHES * columns, (_INCHES + 0.35) * len(found)), layout="constrained")
    axes = figure.subplots(len(found), columns, squeeze=False)
    for row, each in zip(axes, found, strict=True):
        pictures: list[tuple[Any, str]] = [(decode_rgb(Path(each.query)), Path(each.query).name)]
        for match in each.matches:
            open_it = opened.get((match.split, match.file_name))
            words = f"{match.similarity:.3f}\n{match.label or Path(match.file_name).name}"
            pictures.append((None if open_it is None else open_it(), words))
        for axis, (picture, words) in zip(row, pictures, strict=False):
            axis.set_title(_shorten(words), fontsize=6, pad=2)
            if picture is None:
                axis.text(0.5, 0.5, "not there\nany more", ha="center", va="center", fontsize=6)
            else:
                axis.imshow(as_rgb(_shrink(picture)))
        for axis in row:
            axis.set_axis_off()
    return figure


def _shorten(words: str, most: int = 24) -> str:
    return "\n".join(line if len(line) <= most else f"{line[: most - 1]}…" for line in words.splitlines())


def _shrink(picture: Image.Image, side: int = 224) -> Image.Image:
    smaller = picture.copy()
    smaller.thumbnail((side, side))
    return smaller


def format_found(found: Sequence[Found]) -> str:
    """A block for each query."""
    lines = []
    for each in found:
        lines.append(each.query)
        lines += [
            f"  {match.similarity:6.3f}  {match.file_name}"
            + "".join(f"  ({word})" for word in (", ".join(filter(None, (match.split, match.label))),) if word)
            for match in each.matches
        ]
    return "\n".join(lines)
