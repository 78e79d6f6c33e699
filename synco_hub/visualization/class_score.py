"""The number whose gradient is looked at: the predicted class where there is a classifier, else the feature itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synco_hub.feature_adapter import feature_network, feature_rule
from synco_hub.visualization.last_attention import forward_any_size

FEATURE_NORM = "norm of the feature (this checkpoint has no classifier)"


@dataclass(frozen=True)
class ClassFeatures:
    """Mean features of named classes, to stand in for a classifier.

    Attributes:
        features: Shape: (num_classes, dim).
        names: One a class.
    """

    features: Tensor
    names: Sequence[str]


@dataclass(frozen=True)
class Score:
    """One number an image, in the graph of its computation.

    Attributes:
        values: Shape: (batch,).
        descriptions: What each number is, in words.
    """

    values: Tensor
    descriptions: list[str]


def class_score(
    model: nn.Module, pixel_values: Tensor, target: int | None = None, classes: ClassFeatures | None = None
) -> Score:
    """Run a model and choose the number to differentiate.

    With a classifier: the logit of the target, by default of the predicted class (paper section 12.2). Without one:
    the cosine similarity to the target among given classes, by default the nearest. Without either: the norm of the
    feature.

    Args:
        model: With or without a classification head.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).
        target: Index of a class; None for the predicted or nearest one.
        classes: Mean features of classes, for models without a classifier.

    Returns:
        The score of each image.

    Raises:
        ValueError: If the target is no class of the model.
    """
    network: Any = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    has_classifier = _has_classifier(network)
    network = network if has_classifier else feature_network(network)
    output = forward_any_size(network, pixel_values)
    if has_classifier:
        logits = network.forward_head(output) if isinstance(output, Tensor) else output.logits
        return _of_class(logits, target, "score of {}class {}", "predicted ", _class_names(network))
    features = _features(network, output, feature_rule(network).pooling)
    if classes is not None:
        cosines = F.normalize(features, dim=1) @ F.normalize(classes.features.to(features), dim=1).T
        return _of_class(cosines, target, "similarity to {}class {}", "nearest ", dict(enumerate(classes.names)))
    if target is not None:
        raise ValueError(f"target={target}, but the model has no classifier: leave it out, or give class features")
    return Score(features.norm(dim=1), [FEATURE_NORM] * len(features))


def _has_classifier(network: Any) -> bool:
    if hasattr(network, "forward_head"):
        return bool(network.num_classes)
    return isinstance(getattr(network, "classifier", None), nn.Linear)


def _class_names(network: Any) -> Mapping[int, str]:
    """Of a model of `transformers`, or of a head of this package on a foreign backbone."""
    named = getattr(getattr(network, "config", None), "id2label", None)
    return named or dict(enumerate(getattr(network, "class_names", ())))


def _features(network: Any, output: Any, pooling: str) -> Tensor:
    """The frozen feature of the project's protocols, from what one forward gave. Shape: (batch, dim)."""
    features: Tensor
    if isinstance(output, Tensor):
        features = network.forward_head(output, pre_logits=True)
    elif pooling == "class_token":
        features = output.last_hidden_state[:, 0]
    elif pooling == "mean_token":
        features = output.last_hidden_state.mean(dim=1)
    else:
        features = output.pooler_output.flatten(1)
    return features


def _of_class(scores: Tensor, target: int | None, sentence: str, how: str, names: Mapping[int, str]) -> Score:
    """The target's score, or each image's highest. Shape of scores: (batch, num_classes)."""
    if target is not None and not 0 <= target < scores.shape[1]:
        raise ValueError(f"target={target} is no class: there are {scores.shape[1]}, counted from 0")
    chosen = scores.argmax(dim=1) if target is None else torch.full_like(scores[:, 0], target, dtype=torch.long)
    words = [sentence.format(how if target is None else "", names.get(index, index)) for index in chosen.tolist()]
    return Score(scores.gather(1, chosen[:, None])[:, 0], words)
