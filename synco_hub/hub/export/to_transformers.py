"""Export as a stock `ViTModel` or `SwinModel`, which loads anywhere without this package or remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from synco_hub.hub.export.network import Exported, compared, layer_norm_epsilons
from synco_hub.hub.export.stock_names import to_stock_names
from synco_hub.models.backbones_synco import specification_of

_TOLERANCE = 1e-5
_CLASSES: dict[str, tuple[Any, Any]] = {
    "vit": (ViTModel, ViTForImageClassification),
    "swin": (SwinModel, SwinForImageClassification),
}


def export_transformers(exported: Exported, directory: Path) -> dict[str, Any]:
    """Write the stock model, load it as a stranger would, and compare its features.

    Args:
        exported: What is exported.
        directory: Where to write.

    Returns:
        Facts for the report.

    Raises:
        ValueError: If the network has parts that the stock model has not, or computes something else.
    """
    network, config = exported.backbone, exported.config
    family = specification_of(config.backbone).family
    if family == "swin" and "swinv2" in specification_of(config.backbone).timm_name:
        raise ValueError(f"{config.backbone} is a Swin of the second version: export it to timm, onnx or safetensors.")
    epsilons = layer_norm_epsilons(network)
    common = max(set(epsilons.values()), key=list(epsilons.values()).count)
    stock = _vit_config(config, common) if family == "vit" else _swin_config(config, common)
    tensors = to_stock_names(family, network.state_dict())
    base, classifier = _CLASSES[family]
    if exported.head is not None:
        tensors = {f"{family}.{key}": tensor for key, tensor in tensors.items()}
        tensors |= {f"classifier.{kind}": tensor for kind, tensor in exported.head.items()}
        stock.id2label = dict(config.id2label)
        stock.label2id = {name: index for index, name in config.id2label.items()}
        stock.problem_type = config.problem_type
    stock.architectures = [(base if exported.head is None else classifier).__name__]
    stock.save_pretrained(directory)
    save_file(
        {key: tensor.clone() for key, tensor in tensors.items()}, directory / "model.safetensors", {"format": "pt"}
    )
    exported.processor.save_pretrained(directory)
    return _checked(exported, directory, base if exported.head is None else classifier, epsilons)


def _vit_config(config: Any, eps: float) -> ViTConfig:
    return ViTConfig(
        hidden_size=config.embed_dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=round(config.embed_dim * (config.mlp_ratio or 4.0)),
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_channels=config.num_channels,
        layer_norm_eps=eps,
        qkv_bias=True,
    )


def _swin_config(config: Any, eps: float) -> SwinConfig:
    return SwinConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_channels=config.num_channels,
        embed_dim=config.embed_dim,
        depths=list(config.depth),
        num_heads=list(config.num_heads),
        window_size=config.window_size or 7,
        mlp_ratio=config.mlp_ratio or 4.0,
        layer_norm_eps=eps,
        drop_path_rate=config.drop_path_rate,
    )


def _checked(exported: Exported, directory: Path, model_class: Any, epsilons: dict[str, float]) -> dict[str, Any]:
    arguments = {"add_pooling_layer": False} if model_class is ViTModel else {}
    model, info = model_class.from_pretrained(directory, output_loading_info=True, **arguments)
    if info["missing_keys"] or info["unexpected_keys"]:
        raise ValueError(
            f"{exported.name} does not fit transformers' {model_class.__name__}: missing "
            f"{sorted(info['missing_keys'])[:3]}, extra {sorted(info['unexpected_keys'])[:3]}. Export to timm or onnx."
        )
    difference, scale = compared(exported, lambda images: _outputs(model.eval(), images))
    mixed = len(set(epsilons.values())) > 1
    if difference > _TOLERANCE * max(1.0, scale) and not mixed:
        raise ValueError(
            f"{exported.name} as {model_class.__name__} gives features that differ by {difference:.1e}: this network "
            "computes something that the stock model does not. Export to timm, onnx or safetensors."
        )
    facts: dict[str, Any] = {"class": model_class.__name__, "difference": difference, "exact": not mixed}
    if mixed:
        facts["note"] = (
            f"The norms have several epsilons ({sorted(set(epsilons.values()))}), a stock model has one "
            f"({model.config.layer_norm_eps}): on random images features differ by up to {difference:.1e}."
        )
    load = f'{model_class.__name__}.from_pretrained("DIRECTORY"{", add_pooling_layer=False" if arguments else ""})'
    return {**facts, "how_to_load": f"from transformers import {model_class.__name__}\n\nmodel = {load}"}


def _outputs(model: nn.Module, images: Any) -> Any:
    """The feature, or the logits of a classifier."""
    outputs: Any = model(pixel_values=images)
    if hasattr(outputs, "logits"):
        return outputs.logits
    return outputs.last_hidden_state[:, 0] if isinstance(model, ViTModel) else outputs.pooler_output
