"""Export as a stock `ViTModel` or `SwinModel`, which loads anywhere without this package or remote code.

timm's names of weights and those that the stock models save are one to one; the saved names are those of transformers
4, which every later version reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from synco_hub.hub.export.network import Exported, compare_pairs, compared, export_processor, layer_norm_epsilons
from synco_hub.models.backbones_synco import find_specification

_TOLERANCE = 1e-5
_CLASSES: dict[str, tuple[Any, Any]] = {
    "vit": (ViTModel, ViTForImageClassification),
    "swin": (SwinModel, SwinForImageClassification),
}
_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_OUTER = {
    "vit": {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    },
    "swin": {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "patch_embed.norm": "embeddings.norm",
        "norm": "layernorm",
    },
}
# Beginning of a block's keys here and there, and where its attention keeps query, key and value.
_BLOCK_PLACES = {
    "vit": (r"blocks\.(\d+)\.", "encoder.layer.{}.", "attention.attention."),
    "swin": (r"layers\.(\d+)\.blocks\.(\d+)\.", "encoder.layers.{}.blocks.{}.", "attention.self."),
}
_FUSED = ("query", "key", "value")
# What stock models have beside the backbone.
_ASIDE = {"pooler.": "pooler, which self-supervised checkpoints leave random", "embeddings.mask_token": "mask token"}


def export_transformers(exported: Exported, directory: Path) -> dict[str, Any]:
    """Write the stock model, load it as a stranger would, and compare its features."""
    network, config = exported.backbone, exported.config
    family = find_specification(config.backbone).family
    if family == "swin" and "swinv2" in find_specification(config.backbone).timm_name:
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
    view = export_processor(exported, directory)
    pictures = compare_pairs(exported, lambda images: _outputs(model, images), view)
    mixed = len(set(epsilons.values())) > 1
    if difference > _TOLERANCE * max(1.0, scale) and not mixed:
        raise ValueError(
            f"{exported.name} as {model_class.__name__} gives features that differ by {difference:.1e}: this network "
            "computes something that the stock model does not. Export to timm, onnx or safetensors."
        )
    facts: dict[str, Any] = {"class": model_class.__name__, "difference": difference, "exact": not mixed}
    facts["pictures"] = pictures
    notes = []
    if mixed:
        notes.append(
            f"The norms have several epsilons ({sorted(set(epsilons.values()))}), a stock model has one "
            f"({model.config.layer_norm_eps}): on random images features differ by up to {difference:.1e}."
        )
    if not model_class.__name__.startswith("Swin"):
        notes.append(
            "At other image sizes (interpolate_pos_encoding=True) features differ more, by some hundredths: timm "
            "smooths the position embedding where it interpolates, transformers does not."
        )
    facts["note"] = " ".join(notes)
    load = f'{model_class.__name__}.from_pretrained("DIRECTORY"{", add_pooling_layer=False" if arguments else ""})'
    return {**facts, "how_to_load": f"from transformers import {model_class.__name__}\n\nmodel = {load}"}


def _outputs(model: nn.Module, images: Any) -> Any:
    """The feature, or the logits of a classifier."""
    outputs: Any = model(pixel_values=images)
    if hasattr(outputs, "logits"):
        return outputs.logits
    return outputs.last_hidden_state[:, 0] if isinstance(model, ViTModel) else outputs.pooler_output


def to_stock_names(family: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name a backbone's tensors as `ViTModel` or `SwinModel` saves them; query, key and value are taken apart."""
    named: dict[str, Tensor] = {}
    lacking = []
    for key, tensor in tensors.items():
        new = _stock_name(family, key)
        if new is None:
            lacking.append(key)
        elif "{fused}" in new:
            parts = tensor.chunk(3)
            named |= {new.format(fused=name): part for name, part in zip(_FUSED, parts, strict=True)}
        else:
            named[new] = tensor
    if lacking:
        raise ValueError(
            f"{len(lacking)} tensors have no place in transformers' stock {family} model (first: {lacking[:3]}): "
            "export to timm, onnx or safetensors."
        )
    return {key: tensor.contiguous() for key, tensor in named.items()}


def _stock_name(family: str, key: str) -> str | None:
    module, dot, kind = key.rpartition(".")
    outer = _OUTER[family]
    if key in outer:
        return outer[key]
    if module in outer:
        return f"{outer[module]}{dot}{kind}"
    pattern, place, attention = _BLOCK_PLACES[family]
    if match := re.match(pattern, key):
        block, inside = place.format(*match.groups()), module[match.end() :]
        if inside == "attn.qkv":
            return f"{block}{attention}{{fused}}.{kind}"
        if inside == "attn" and kind == "relative_position_bias_table":
            return f"{block}{attention}{kind}"
        return f"{block}{_BLOCK[inside]}.{kind}" if inside in _BLOCK else None
    if family == "swin" and (match := re.match(r"layers\.(\d+)\.downsample\.", key)):
        return f"encoder.layers.{int(match[1]) - 1}.{key.split('.', 2)[2]}"
    return None


def from_stock_names(family: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The way back: a stock model's saved tensors under timm's names."""
    named: dict[str, Tensor] = {}
    fused: dict[str, dict[str, Tensor]] = {}
    dropped: dict[str, str] = {}
    leftover = []
    for key, tensor in tensors.items():
        bare = key.removeprefix(f"{family}.")
        if reason := next((text for start, text in _ASIDE.items() if bare.startswith(start)), None):
            dropped[key] = reason
        elif bare.endswith(".relative_position_index"):
            dropped[key] = "computed from the window"
        elif bare.startswith("classifier."):
            named[bare.replace("classifier.", "head.")] = tensor
        elif (new := _timm_name(family, bare)) is None:
            leftover.append(key)
        elif "{fused}" in new:
            part = next(name for name in _FUSED if f".{name}." in bare)
            fused.setdefault(new.replace("{fused}.", ""), {})[part] = tensor
        else:
            named[new] = tensor
    broken = [key for key, parts in fused.items() if set(parts) != set(_FUSED)]
    if leftover or broken:
        raise ValueError(f"The stock {family} model has unknown or incomplete keys: {(leftover + broken)[:20]}.")
    named |= {key: torch.cat([parts[name] for name in _FUSED]) for key, parts in fused.items()}
    return named, dropped


def _timm_name(family: str, key: str) -> str | None:
    module, dot, kind = key.rpartition(".")
    outer = {stock: ours for ours, stock in _OUTER[family].items()}
    if key in outer:
        return outer[key]
    if module in outer:
        return f"{outer[module]}{dot}{kind}"
    _, place, attention = _BLOCK_PLACES[family]
    if match := re.match(re.escape(place).replace(r"\{\}", r"(\d+)"), key):
        numbers, inside = match.groups(), module[match.end() :]
        block = f"blocks.{numbers[0]}." if family == "vit" else f"layers.{numbers[0]}.blocks.{numbers[1]}."
        if inside.startswith(attention) and inside.removeprefix(attention) in _FUSED:
            return f"{block}attn.qkv.{{fused}}.{kind}"
        if f"{inside}." == attention and kind == "relative_position_bias_table":
            return f"{block}attn.{kind}"
        found = next((ours for ours, stock in _BLOCK.items() if stock == inside), None)
        return found and f"{block}{found}.{kind}"
    if family == "swin" and (match := re.match(r"encoder\.layers\.(\d+)\.downsample\.", key)):
        return f"layers.{int(match[1]) + 1}.{key.split('.', 3)[3]}"
    return None
