"""Two pictures as a model compares them, and a picture's nearest neighbours among the examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from space_app.looks import Looks
from space_app.panels import Panel
from space_app.views import Picked
from synco_hub.feature_adapter import feature_network, feature_rule, image_features
from synco_hub.visualization.overlay import PreparedImage

NEAREST = 5


def similarity_sentence(looks: Looks, picked: Picked, other: str) -> str:
    """How alike two pictures are to a model.

    Args:
        looks: Memory of results.
        picked: First picture and model; compared at the model's own size.
        other: The second picture.

    Raises:
        ValueError: If a picture or the model cannot be used.
    """
    first, second = (looks.result(_feature, path, picked.model)[1] for path in (picked.path, other))
    return f"{picked.model}: cosine similarity {float(F.cosine_similarity(first, second)):.3f}"


def nearest_panels(looks: Looks, picked: Picked, examples: Mapping[str, Path]) -> list[Panel]:
    """The example pictures whose features are nearest to a picture's.

    Args:
        looks: Memory of results.
        picked: Picture and model; compared at the model's own size.
        examples: Path of each example by its caption.

    Returns:
        The nearest first.

    Raises:
        ValueError: If the picture or the model cannot be used.
    """
    _, feature = looks.result(_feature, picked.path, picked.model)
    shown, others = zip(*(looks.result(_feature, str(path), picked.model) for path in examples.values()), strict=True)
    similarity = F.cosine_similarity(feature, torch.cat(others))
    values, order = similarity.sort(descending=True, stable=True)
    names = list(examples)
    return [
        Panel(names[index], shown[index].shown, f"cosine similarity {value:.3f}")
        for value, index in zip(values.tolist()[:NEAREST], order.tolist()[:NEAREST], strict=True)
    ]


def _feature(network: Any, prepared: PreparedImage) -> Tensor:
    with torch.no_grad():
        return image_features(feature_network(network), prepared.pixel_values, feature_rule(network))
