"""Which places of an image move one number most: Grad-CAM and gradient saliency, of one forward and one backward pass.

The number is the score of the predicted class where there is a classifier, else one of the feature itself.

Source: paper section 12.2. The feature map of a Swin is the one after the final norm, before global pooling. A ViT
pools its [CLS] token alone, so its patch tokens have no gradient there; the input of its last block's attention is
read instead.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.constants import IMAGENET_DEFAULT_STD

from synco_hub.feature_pooling import find_feature_network, find_feature_rule, pool_features
from synco_hub.features import eval_mode
from synco_hub.visualization.recorded_attention import TOKENS_INSTEAD, attends_in_windows, forward_any_size
from synco_hub.visualization.token_maps import lay_tokens_on_grid

FEATURE_NORM = "norm of the feature (this checkpoint has no classifier)"


@dataclass(frozen=True)
class GradientMaps:
    """Gradient maps of a batch of images.

    Attributes:
        cam: Grad-CAM on the grid of the feature map, not negative. Shape: (batch, rows, columns).
        saliency: |dy/dx| on the image before normalisation, mean of the colour channels, not negative.
            Shape: (batch, height, width).
        scores: What y is for each image, in words.
    """

    cam: Tensor
    saliency: Tensor
    scores: list[str]


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


def gradient_maps(
    model: nn.Module,
    pixel_values: Tensor,
    target: int | None = None,
    classes: ClassFeatures | None = None,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> GradientMaps:
    """Differentiate a model's score by its feature map and by the image.

    Args:
        model: A Swin, or a ViT with a [CLS] token, of this package, timm or transformers; with or without a
            classification head, see :func:`class_score`.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).
        target: Index of a class; None for the predicted one.
        classes: Mean features of classes, for models without a classifier.
        std: What the image processor divided each channel by.

    Returns:
        The maps, on the model's device. Gradients of parameters are left as they are.

    Raises:
        ValueError: If the model has no known feature map, or the target is no class.
    """
    network = find_feature_network(model)
    seen: list[Tensor] = []
    own_thread = threading.get_ident()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A server shares the model between threads, and a hook hears the forward passes of all of them.
        if threading.get_ident() == own_thread:
            seen.append(output)

    handle = _feature_layer(network).register_forward_hook(note)
    pixel_values = pixel_values.detach().to(next(network.parameters()).device).requires_grad_()
    try:
        with eval_mode(model), torch.enable_grad():
            score = class_score(model, pixel_values, target, classes)
            by_feature, by_pixel = torch.autograd.grad(score.values.sum(), [seen[-1], pixel_values])
    finally:
        handle.remove()
    features, by_feature = (lay_tokens_on_grid(tensor, network, pixel_values) for tensor in (seen[-1], by_feature))
    deviation = by_pixel.new_tensor(std)[:, None, None]
    return GradientMaps(grad_cam(features, by_feature), (by_pixel / deviation).abs().mean(dim=1), score.descriptions)


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """Channels of a feature map weighted by the mean of their gradient, negative sums cut off.

    Args:
        features: Shape: (batch, rows, columns, dim).
        gradient: Of the score with respect to the features. Shape: (batch, rows, columns, dim).

    Returns:
        Not negative. Shape: (batch, rows, columns).
    """
    weights = gradient.mean(dim=(1, 2))
    return torch.einsum("brcd,bd->brc", features.detach(), weights).relu()


def _feature_layer(network: Any) -> nn.Module:
    """The final norm of a Swin, the first norm of a ViT's last block."""
    # Of a network of text and images, what sees the images.
    core = getattr(network, "backbone", getattr(network, "vision_model", network))
    if attends_in_windows(network):
        found = getattr(core, "norm", None) or getattr(core, "layernorm", None)
    else:
        names = ("norm1", "layernorm_before", "layer_norm1")
        norms = [module for name, module in core.named_modules() if name.rpartition(".")[2] in names]
        found = norms[-1] if norms else None
    if not isinstance(found, nn.Module):
        raise ValueError(
            f"{type(network).__name__} has no final norm or block norm that is known: give a ViT or Swin of this "
            f"package, timm or transformers, or {TOKENS_INSTEAD}"
        )
    return found


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
    network = network if has_classifier else find_feature_network(network)
    output = forward_any_size(network, pixel_values)
    if has_classifier:
        logits = network.forward_head(output) if isinstance(output, Tensor) else output.logits
        return _of_class(logits, target, "score of {}class {}", "predicted ", _class_names(network))
    features = pool_features(network, output, find_feature_rule(network))
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


def _of_class(scores: Tensor, target: int | None, sentence: str, how: str, names: Mapping[int, str]) -> Score:
    """The target's score, or each image's highest. Shape of scores: (batch, num_classes)."""
    if target is not None and not 0 <= target < scores.shape[1]:
        raise ValueError(f"target={target} is no class: there are {scores.shape[1]}, counted from 0")
    chosen = scores.argmax(dim=1) if target is None else torch.full_like(scores[:, 0], target, dtype=torch.long)
    words = [sentence.format(how if target is None else "", names.get(index, index)) for index in chosen.tolist()]
    return Score(scores.gather(1, chosen[:, None])[:, 0], words)
