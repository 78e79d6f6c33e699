"""The configuration of a stock `ViTModel` or `SwinModel` as a `SynCoConfig`; here nothing needs to be guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synco_hub.hub.conversion.attention_heads import HeadsDecision
from synco_hub.hub.conversion.configuration import Choices, nearest_backbone
from synco_hub.hub.conversion.position_embedding import has_sincos_position_embedding
from synco_hub.hub.conversion.timm_names import BackboneTensors
from synco_hub.models import SynCoConfig

# What transformers' configurations take when config.json leaves a number out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 224, "patch_size": 16, "num_channels": 3, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    "swin": {
        "image_size": 224,
        "patch_size": 4,
        "num_channels": 3,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "window_size": 7,
        "mlp_ratio": 4.0,
        "embed_dim": 96,
        "depths": [2, 2, 6, 2],
        "num_heads": [3, 6, 12, 24],
    },
}
_VIT_DEFAULTS = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


def stock_configuration(
    values: Mapping[str, Any], backbone: BackboneTensors, choices: Choices
) -> tuple[SynCoConfig, HeadsDecision]:
    """Translate a stock model's config.json.

    Args:
        values: The config.json of a ViT or Swin of transformers.
        backbone: Its tensors under timm's names.
        choices: What the user decided; only the backbone's name and, for a ViT, the heads may be.

    Raises:
        ValueError: If the network has parts that timm's has not.
    """
    family = str(values["model_type"])
    stock = {**_DEFAULTS[family], **(_VIT_DEFAULTS if family == "vit" else {}), **values}
    if stock["hidden_act"] != "gelu":
        raise ValueError(f"hidden_act={stock['hidden_act']!r} is not GELU, which every network of this package has.")
    shared = {
        "image_size": stock["image_size"],
        "patch_size": stock["patch_size"],
        "num_channels": stock["num_channels"],
        "layer_norm_eps": stock["layer_norm_eps"],
    }
    if family == "swin":
        name, _ = nearest_backbone("swin", stock["embed_dim"], list(stock["depths"]))
        config = SynCoConfig(
            choices.backbone or name,
            embed_dim=stock["embed_dim"],
            depth=stock["depths"],
            num_heads=stock["num_heads"],
            mlp_ratio=stock["mlp_ratio"],
            window_size=stock["window_size"],
            **shared,
        )
    else:
        dim = stock["hidden_size"]
        name, _ = nearest_backbone("vit", dim, stock["num_hidden_layers"])
        fixed = has_sincos_position_embedding(backbone.tensors["pos_embed"])
        config = SynCoConfig(
            choices.backbone or name,
            embed_dim=dim,
            depth=stock["num_hidden_layers"],
            num_heads=choices.num_heads or stock["num_attention_heads"],
            mlp_ratio=stock["intermediate_size"] / dim,
            position_embedding="sincos" if fixed else "learned",
            **shared,
        )
    reason = "as given by --num-heads" if choices.num_heads else "as the stock model's config.json says"
    return config, HeadsDecision(config.num_heads, reason)
