"""Which feature stands for an image: one documented rule for each family of models.

The rule says which token, which pooling and which norm; it is stored with every result, because numbers of different
features must not be compared unseen. Heads are left out: the feature is the backbone's.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Pooling = Literal["pooler_output", "class_token", "mean_token", "mean_map", "cls_token_value", "timm"]


@dataclass(frozen=True)
class FeatureRule:
    """One way from an image to its feature.

    Attributes:
        pooling: ``pooler_output``: what the model itself calls pooled; ``class_token``: first token of the last
            hidden state; ``mean_token``: mean of the last hidden state; ``mean_map``: the same of a map with channels
            first; ``cls_token_value``: what CvT calls so; ``timm``: timm's pooling and norm before its head.
        description: The same in words: token, pooling, norm.
    """

    pooling: Pooling
    description: str


_CLASS_TOKEN = FeatureRule("class_token", "[CLS] token after the final norm")
_MEAN_TOKEN = FeatureRule("mean_token", "mean of the patch tokens after the final norm")
_MEAN_MAP = FeatureRule("pooler_output", "mean of the final feature map after the final norm")
_MEAN_BEFORE_NORM = FeatureRule("mean_map", "mean of the final feature map, before the norm of a classifier")

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
    "cvt": FeatureRule("cls_token_value", "[CLS] token before the norm of a classifier"),
    "poolformer": _MEAN_BEFORE_NORM,
    "pvt": _CLASS_TOKEN,
    "pvt_v2": FeatureRule("mean_map", "mean of the final feature map"),
    "segformer": FeatureRule("mean_map", "mean of the final feature map"),
    "swiftformer": _MEAN_BEFORE_NORM,
}
# Of networks of text and images, what is compared with a text: CLIP projects its tower's pooled output, SigLIP not.
_IMAGE_FEATURE = FeatureRule("pooler_output", "the model's own image feature (get_image_features)")
_ANY_POOLED = FeatureRule("pooler_output", "the model's own pooled output")


def find_feature_rule(model: nn.Module) -> FeatureRule:
    """The rule for a model."""
    network: Any = find_feature_network(model)
    config: Any = getattr(network, "config", None)
    model_type = getattr(config, "model_type", None)
    _refuse_masking(config)
    if model_type == "synco":
        return FeatureRule("pooler_output", _timm_words(network.backbone))
    if hasattr(network, "get_image_features"):
        return _IMAGE_FEATURE
    if model_type is not None:
        return RULES.get(model_type, _ANY_POOLED)
    if _is_timm(network):
        return FeatureRule("timm", _timm_words(network))
    raise ValueError(
        f"{type(model).__name__} is neither a transformers nor a timm model, so it is unknown which of its outputs is "
        "the feature: give a FeatureRule, or a model with pooler_output"
    )


def _refuse_masking(config: Any) -> None:
    if getattr(config, "model_type", None) == "vit_mae" and config.mask_ratio > 0:
        raise ValueError(
            f"the ViT-MAE hides {config.mask_ratio:.0%} of the patches at random, its features are no function of the "
            "image: load it with mask_ratio=0.0, as the commands do"
        )


def find_feature_network(model: nn.Module) -> nn.Module:
    """The backbone of a model: without classification or pretraining heads, compiled or not.

    What transformers wraps of timm is looked through; a network of text and images stays whole.
    """
    network = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    base = getattr(network, "base_model", network)
    if isinstance(base, nn.Module) and (_is_timm(base) or _takes_images(base)):
        # DINOv3's own base model is its bare encoder of tokens: only one that takes images is a backbone.
        network = base
    for name in ("timm_model", "vision_model"):
        inner = getattr(network, name, None)
        if isinstance(inner, nn.Module) and (_is_timm(inner) or _takes_images(inner)):
            return network if hasattr(network, "get_image_features") else inner
    return network


def _takes_images(module: nn.Module) -> bool:
    return "pixel_values" in inspect.signature(module.forward).parameters


def compute_image_features(network: nn.Module, pixel_values: Tensor, rule: FeatureRule) -> Tensor:
    """Features of a batch of images.

    Args:
        network: What :func:`find_feature_network` gave.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).
        rule: Which feature.

    Returns:
        Shape: (batch, dim).
    """
    return pool_features(network, forward_network(network, pixel_values), rule)


def forward_network(network: Any, pixel_values: Tensor, **options: Any) -> Any:
    """Run a backbone of whatever library, with images by their name: the first argument of CLIP is a text.

    Args:
        network: What :func:`find_feature_network` gave.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).
        **options: Further arguments that its forward has.

    Returns:
        What timm's `forward_features` gives, a tensor, or a model of transformers, its outputs.
    """
    # Some models cast images to the type of their weights, and some do not.
    pixel_values = pixel_values.to(next((p.dtype for p in network.parameters() if p.is_floating_point()), None))
    if _is_timm(network):
        return network.forward_features(pixel_values, **options)
    config: Any = getattr(network, "config", None)
    _refuse_masking(config)
    if getattr(config, "model_type", None) == "vit_mae":
        # It sorts the patches by noise, which puts every token of a map elsewhere: rising noise leaves them in order.
        sides = config.patch_size if isinstance(config.patch_size, (list, tuple)) else (config.patch_size,) * 2
        patches = (pixel_values.shape[-2] // sides[0]) * (pixel_values.shape[-1] // sides[1])
        options["noise"] = torch.arange(patches, device=pixel_values.device).expand(len(pixel_values), -1)
    forward = getattr(network, "get_image_features", network)
    return forward(pixel_values=pixel_values, **options)


def pool_features(network: Any, output: Any, rule: FeatureRule) -> Tensor:
    """The features of what :func:`forward_network` gave.

    Args:
        network: The backbone.
        output: What it gave.
        rule: Which feature.

    Returns:
        Shape: (batch, dim).
    """
    if rule.pooling == "timm":
        features = network.forward_head(output, pre_logits=True)
    else:
        hidden = rule.pooling in ("class_token", "mean_token", "mean_map")
        name = "last_hidden_state" if hidden else rule.pooling
        features = getattr(output, name, None)
        if features is None:
            raise ValueError(
                f"{type(network).__name__} gives no {name}, which is its feature here ({rule.description}): take a "
                "model that pools, such as the backbone that it was made of; in Python load it with its pooling "
                "layer, or choose a FeatureRule that it fulfils"
            )
        if rule.pooling in ("class_token", "cls_token_value"):
            features = features[:, 0]
        elif rule.pooling == "mean_token":
            features = features.mean(dim=1)
        elif rule.pooling == "mean_map":
            features = features.mean(dim=(-2, -1))
    if isinstance(features, Tensor) and features.ndim == 4 and features.shape[2:] == (1, 1):
        features = features.flatten(1)  # convolutional networks pool to (batch, dim, 1, 1)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError(
            f"{type(network).__name__} gives features of shape {tuple(getattr(features, 'shape', ()))}, one vector an "
            "image is due: choose a model that pools, or a FeatureRule that does"
        )
    return features


def find_expected_image_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width in pixels that the model was built for, None if it does not say."""
    network = find_feature_network(model)
    size: Any = getattr(patch_embedding(network), "img_size", None)
    if size is None:
        size = getattr(find_image_config(network), "image_size", None)
    if size is None:
        size = (getattr(network, "pretrained_cfg", None) or {}).get("input_size", (None,))[1:] or None
    if size is None:
        return None
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def find_image_config(network: nn.Module) -> Any:
    """The configuration of what sees images, of a network of text and images too; None where there is none."""
    config: Any = getattr(network, "config", None)
    return getattr(config, "vision_config", config)


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
