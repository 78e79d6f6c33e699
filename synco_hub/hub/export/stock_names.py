"""timm's names of weights and those that `ViTModel` and `SwinModel` of `transformers` save, one to one.

The saved names are those of transformers 4, which every later version reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

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


def to_stock_names(family: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name a backbone's tensors as `ViTModel` or `SwinModel` saves them; query, key and value are taken apart.

    Args:
        family: `vit` or `swin`.
        tensors: timm key to tensor.

    Raises:
        ValueError: If there are tensors that the stock model has no place for.
    """
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
    """The way back: a stock model's saved tensors under timm's names.

    Args:
        family: `vit` or `swin`.
        tensors: What `ViTModel`, `SwinModel` or their classifiers saved.

    Returns:
        timm key to tensor, with `head.weight` and `head.bias` of a classifier; and dropped key to reason.

    Raises:
        ValueError: If there are keys of another model.
    """
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
