"""Which feature stands for an image: one documented rule for each family of models.

The rule says which token, which pooling and which norm; it is stored with every result, because numbers of different
features must not be compared unseen. Heads are left out: the feature is the backbone's.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

Pooling = Literal["pooler_output", "class_token", "mean_token", "timm"]


@dataclass(frozen=True)
class FeatureRule:
    """One way from an image to its feature.

    Attributes:
        pooling: ``pooler_output``: what the model itself calls pooled; ``class_token``: first token of the last
            hidden state; ``mean_token``: mean of the last hidden state; ``timm``: timm's pooling and norm before its
            head.
        description: The same in words: token, pooling, norm.
    """

    pooling: Pooling
    description: str


_CLASS_TOKEN = FeatureRule("class_token", "[CLS] token after the final norm")
_MEAN_TOKEN = FeatureRule("mean_token", "mean of the patch tokens after the final norm")
_MEAN_MAP = FeatureRule("pooler_output", "mean of the final feature map after the final norm")

# By the model type of transformers' configurations. ViT, DeiT and the like have a `pooler` too, but it is a dense
# layer that self-supervised checkpoints leave random: their feature is the [CLS] token. SynCoModel and timm's own
# models are not here: theirs is what timm pools ([CLS] for a ViT, the mean of the final map for a Swin).
RULES: dict[str, FeatureRule] = {
    "vit": _CLASS_TOKEN,
    "deit": _CLASS_TOKEN,
    "vit_msn": _CLASS_TOKEN,
    "vit_mae": _CLASS_TOKEN,
    "dinov2": _CLASS_TOKEN,
    "dinov2_with_registers": _CLASS_TOKEN,
    "dinov3_vit": _CLASS_TOKEN,
    "ijepa": _MEAN_TOKEN,
    "beit": FeatureRule("pooler_output", "the model's own pooling and norm"),
    "data2vec-vision": FeatureRule("pooler_output", "the model's own pooling and norm"),
    "swin": _MEAN_MAP,
    "swinv2": _MEAN_MAP,
    "convnext": FeatureRule("pooler_output", "mean of the final feature map, then the final norm"),
    "convnextv2": FeatureRule("pooler_output", "mean of the final feature map, then the final norm"),
    "dinov3_convnext": FeatureRule("pooler_output", "mean of the final feature map, then the final norm"),
    "resnet": FeatureRule("pooler_output", "mean of the final feature map"),
}
_ANY_POOLED = FeatureRule("pooler_output", "the model's own pooled output")


def find_feature_rule(model: nn.Module) -> FeatureRule:
    """The rule for a model."""
    network: Any = find_feature_network(model)
    config: Any = getattr(network, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type == "vit_mae" and config.mask_ratio > 0:
        raise ValueError(
            f"the ViT-MAE hides {config.mask_ratio:.0%} of the patches at random, its features are no function of the "
            "image: load it with mask_ratio=0.0"
        )
    if model_type == "synco":
        return FeatureRule("pooler_output", _timm_words(network.backbone))
    if model_type is not None:
        return RULES.get(model_type, _ANY_POOLED)
    if _is_timm(network):
        return FeatureRule("timm", _timm_words(network))
    raise ValueError(
        f"{type(model).__name__} is neither a transformers nor a timm model, so it is unknown which of its outputs is "
        "the feature: give a FeatureRule, or a model with pooler_output"
    )


def find_feature_network(model: nn.Module) -> nn.Module:
    """The backbone of a model: without classification or pretraining heads, compiled or not."""
    network = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    base = getattr(network, "base_model", None)
    if not isinstance(base, nn.Module):
        return network
    # DINOv3's own base model is its bare encoder of tokens: only one that takes images is a backbone.
    takes_images = _is_timm(base) or "pixel_values" in inspect.signature(base.forward).parameters
    return base if takes_images else network


def compute_image_features(network: nn.Module, pixel_values: Tensor, rule: FeatureRule) -> Tensor:
    """Features of a batch of images.

    Args:
        network: What :func:`find_feature_network` gave.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).
        rule: Which feature.

    Returns:
        Shape: (batch, dim).
    """
    if rule.pooling == "timm":
        timm_network: Any = network
        features = timm_network.forward_head(timm_network.forward_features(pixel_values), pre_logits=True)
    else:
        name = "pooler_output" if rule.pooling == "pooler_output" else "last_hidden_state"
        features = getattr(network(pixel_values), name, None)
        if features is None:
            raise ValueError(
                f"{type(network).__name__} gives no {name}, so it has no {rule.description}: "
                "load it with its pooling layer, or choose a FeatureRule that it fulfils"
            )
        if rule.pooling == "class_token":
            features = features[:, 0]
        elif rule.pooling == "mean_token":
            features = features.mean(dim=1)
    if features.ndim == 4 and features.shape[2:] == (1, 1):
        features = features.flatten(1)  # convolutional networks pool to (batch, dim, 1, 1)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError(
            f"{type(network).__name__} gives features of shape {tuple(features.shape)}, one vector an image is due: "
            "choose a model that pools, or a FeatureRule that does"
        )
    return features


def find_expected_image_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width in pixels that the model was built for, None if it does not say."""
    network = find_feature_network(model)
    size: Any = getattr(patch_embedding(network), "img_size", None)
    if size is None:
        size = getattr(getattr(network, "config", None), "image_size", None)
    if size is None:
        size = (getattr(network, "pretrained_cfg", None) or {}).get("input_size", (None,))[1:] or None
    if size is None:
        return None
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def patch_embedding(network: nn.Module) -> nn.Module | None:
    """The patch embedding inside a timm model or a SynCoModel, None for every other model."""
    found = getattr(getattr(network, "backbone", network), "patch_embed", None)
    return found if isinstance(found, nn.Module) else None


def _is_timm(network: nn.Module) -> bool:
    return hasattr(network, "forward_features") and hasattr(network, "forward_head")


def _timm_words(network: nn.Module) -> str:
    pooling = getattr(network, "global_pool", None)
    known = {"token": "[CLS] token after the final norm", "avg": "mean of the final tokens, with the final norm"}
    return known.get(pooling, f"timm's pooling {pooling!r}") if isinstance(pooling, str) else "timm's own pooling"
