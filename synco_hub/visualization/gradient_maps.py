"""Which places of an image move one number most: Grad-CAM and gradient saliency, of one forward and one backward pass.

Source: paper section 12.2. The feature map of a Swin is the one after the final norm, before global pooling. A ViT
pools its [CLS] token alone, so its patch tokens have no gradient there; the input of its last block's attention is
read instead.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.constants import IMAGENET_DEFAULT_STD

from synco_hub.feature_adapter import feature_network
from synco_hub.frozen import frozen
from synco_hub.visualization.class_score import ClassFeatures, class_score
from synco_hub.visualization.last_attention import attends_in_windows
from synco_hub.visualization.token_map import tokens_on_grid


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
            classification head, see :func:`synco_hub.visualization.class_score.class_score`.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).
        target: Index of a class; None for the predicted one.
        classes: Mean features of classes, for models without a classifier.
        std: What the image processor divided each channel by.

    Returns:
        The maps, on the model's device. Gradients of parameters are left as they are.

    Raises:
        ValueError: If the model has no known feature map, or the target is no class.
    """
    network = feature_network(model)
    seen: list[Tensor] = []
    own_thread = threading.get_ident()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A server shares the model between threads, and a hook hears the forward passes of all of them.
        if threading.get_ident() == own_thread:
            seen.append(output)

    handle = _feature_layer(network).register_forward_hook(note)
    pixel_values = pixel_values.detach().to(next(network.parameters()).device).requires_grad_()
    try:
        with frozen(model), torch.enable_grad():
            score = class_score(model, pixel_values, target, classes)
            by_feature, by_pixel = torch.autograd.grad(score.values.sum(), [seen[-1], pixel_values])
    finally:
        handle.remove()
    features, by_feature = (tokens_on_grid(tensor, network, pixel_values) for tensor in (seen[-1], by_feature))
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
    core = getattr(network, "backbone", network)
    if attends_in_windows(network):
        found = getattr(core, "norm", None) or getattr(core, "layernorm", None)
    else:
        names = ("norm1", "layernorm_before")
        norms = [module for name, module in core.named_modules() if name.rpartition(".")[2] in names]
        found = norms[-1] if norms else None
    if not isinstance(found, nn.Module):
        raise ValueError(
            f"{type(network).__name__} has no final norm or block norm that is known: give a ViT or Swin of this "
            "package, timm or transformers"
        )
    return found
