"""The configuration of a foreign backbone: told by its shapes, translated from a stock model's, or carried along."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from synco_hub.errors import escape, join_names
from synco_hub.hub.conversion.layouts import Layout
from synco_hub.hub.conversion.source import CheckpointSource
from synco_hub.hub.conversion.tensor_names import BackboneTensors, has_sincos_position_embedding
from synco_hub.hub.conversion.weights import check_depth
from synco_hub.hub.export.network import CONFIG_FIELDS
from synco_hub.models import BACKBONES, SynCoConfig, SynCoModel
from synco_hub.models.backbones_synco import find_specification

_SWIN_HEADS = "--num-heads was given, but a Swin's heads are told by the shapes of its weights: leave it out."
# Arguments of timm's networks that shapes tell, those that change no feature, and what timm writes for every network.
_TOLD_BY_SHAPES = {"patch_size", "embed_dim", "depth", "depths", "mlp_ratio", "window_size", "in_chans"}
_OF_EVERY_NETWORK = {"img_size", "in_chans", "global_pool"}
_WITHOUT_EFFECT = {"num_classes", "drop_rate", "drop_path_rate", "weight_init", "dynamic_img_size", "strict_img_size"}
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

# What a ViT's tensors are called that no network here has.
_FOREIGN_PARTS = {
    ".reg_token": "register tokens",
    ".ls1.": "a scale of every layer",
    ".norm_pre.": "a norm before its blocks",
    ".q_norm.": "norms of queries and keys",
}


@dataclass(frozen=True)
class Choices:
    """What the user may decide about the backbone.

    Attributes:
        backbone: Short name or timm name; None: by the shapes.
        num_heads: Heads of a ViT; None: by the layout.
        image_size: Side of the input in pixels; None: by the shapes.
    """

    backbone: str | None = None
    num_heads: int | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class HeadsDecision:
    """How many attention heads, and why: the number changes no weight's shape.

    Attributes:
        num_heads: One number, or one a stage.
        reason: Why.
        recorded: What the file's own configuration says, which may be ignored by the code that wrote it.
    """

    num_heads: int | list[int]
    reason: str
    recorded: Any = None


def infer_configuration(
    backbone: BackboneTensors, layout_name: str, layout: Layout, choices: Choices, recorded: Any = None
) -> tuple[SynCoConfig, HeadsDecision]:
    """The configuration that shapes tell, the layout where they say nothing, and what the user decided before both."""
    _refuse_other_networks(backbone.tensors, choices.backbone is not None)
    try:
        if choices.backbone is not None:
            return _find_named_configuration(backbone, layout_name, layout, choices, recorded)
        if "cls_token" in backbone.tensors:
            return _infer_vit_configuration(backbone.tensors, layout_name, layout, choices, recorded)
        return _infer_swin_configuration(backbone, layout, choices)
    except (KeyError, IndexError, ZeroDivisionError, TypeError) as error:  # a TypeError is the root of -1 patches
        raise ValueError(
            f"The weights are neither a ViT's nor a Swin's ({error} is missing or misshapen; first keys: "
            f"{join_names(sorted(backbone.tensors), 5)}): give --backbone and the right --layout."
        ) from error


def _refuse_other_networks(tensors: Mapping[str, Any], is_named: bool) -> None:
    """Networks whose keys look like a ViT's and which no choice of the user turns into one.

    A name of timm may stand for a ViT with further parts, such as DINOv2's scale of every layer.
    """
    if any(key.startswith("patch_embed.proj.0.") for key in tensors):
        raise ValueError(
            "The weights are those of a ViT with a convolutional stem (patch_embed.proj.0. …), which no network of "
            "this package has: convert a release whose patch projection is one layer (MoCo v3: ViT-S, ViT-B)."
        )
    if any(key.startswith("blocks.") for key in tensors) and "cls_token" not in tensors:
        raise ValueError(
            "The weights are those of a ViT without a [CLS] token (no cls_token), whose feature is a mean of its "
            "patches; every ViT of this package has one. Measure it as it is, by timm:<name> or its directory."
        )
    for part, words in _FOREIGN_PARTS.items():
        if is_named and part != ".reg_token":
            continue
        remedy = "" if part == ".reg_token" else "name its architecture by --backbone, "
        if "cls_token" in tensors and (found := next((key for key in sorted(tensors) if part in f".{key}"), None)):
            raise ValueError(
                f"The weights are those of a ViT with {words} ({found}), which no ViT of this package has. Measure it "
                f"as it is, by timm:<name> or its directory, {remedy}or convert a release without."
            )


def _find_named_configuration(
    backbone: BackboneTensors, layout_name: str, layout: Layout, choices: Choices, recorded: Any
) -> tuple[SynCoConfig, HeadsDecision]:
    """The backbone that the user names; whether the shapes are its own is seen when they are loaded."""
    name = choices.backbone or ""
    own = find_specification(name)
    tensors = backbone.tensors
    size, grid, position_embedding = choices.image_size, backbone.grid, None
    if "pos_embed" in tensors and own.family == "vit":
        grid = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
        position_embedding = "sincos" if has_sincos_position_embedding(tensors["pos_embed"]) else "learned"
    if own.family == "vit":
        heads = vit_heads(own.embed_dim, layout_name, layout, choices.num_heads, name, recorded)
    elif choices.num_heads is not None:
        raise ValueError(_SWIN_HEADS)
    else:
        heads = HeadsDecision(list(own.num_heads), f"as {name} has it")  # type: ignore[arg-type]
    # Networks that timm alone knows keep timm's epsilon.
    eps = None if name not in BACKBONES else layout.vit_eps if own.family == "vit" else layout.swin_eps
    config = SynCoConfig(
        name,
        image_size=grid * own.patch_size if size is None and grid else size,
        num_channels=tensors["patch_embed.proj.weight"].shape[1],
        num_heads=heads.num_heads,
        position_embedding=position_embedding,
        layer_norm_eps=eps,
    )
    return config, heads


def _infer_vit_configuration(
    tensors: Mapping[str, Any], layout_name: str, layout: Layout, choices: Choices, recorded: Any
) -> tuple[SynCoConfig, HeadsDecision]:
    dim, patch = tensors["cls_token"].shape[-1], tensors["patch_embed.proj.weight"].shape[-1]
    depth = _count(tensors, r"blocks\.(\d+)\.")
    grid = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    backbone, certain = find_nearest_backbone("vit", dim, depth)
    heads = vit_heads(dim, layout_name, layout, choices.num_heads, backbone if certain else None, recorded)
    fixed = has_sincos_position_embedding(tensors["pos_embed"])
    config = SynCoConfig(
        backbone,
        image_size=grid * patch if choices.image_size is None else choices.image_size,
        patch_size=patch,
        num_channels=tensors["patch_embed.proj.weight"].shape[1],
        embed_dim=dim,
        depth=depth,
        num_heads=heads.num_heads,
        mlp_ratio=_ratio(tensors, "blocks.0", dim),
        position_embedding="sincos" if fixed else "learned",
        layer_norm_eps=layout.vit_eps,
    )
    return config, heads


def _infer_swin_configuration(
    backbone: BackboneTensors, layout: Layout, choices: Choices
) -> tuple[SynCoConfig, HeadsDecision]:
    if choices.num_heads is not None:
        raise ValueError(_SWIN_HEADS)
    tensors = backbone.tensors
    projection = tensors["patch_embed.proj.weight"].shape
    stages = _count(tensors, r"layers\.(\d+)\.")
    depth = [_count(tensors, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)]
    tables = [tensors[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"].shape for stage in range(stages)]
    # A window is no larger than its grid, so the first stages tell it: the table has (2 * window - 1)² rows.
    window = max((round(rows**0.5) + 1) // 2 for rows, _ in tables)
    num_heads = [heads for _, heads in tables]
    name, _ = find_nearest_backbone("swin", projection[0], depth)
    size = choices.image_size or (backbone.grid * projection[-1] if backbone.grid else None)
    config = SynCoConfig(
        name,
        image_size=size,
        patch_size=projection[-1],
        num_channels=projection[1],
        embed_dim=projection[0],
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=_ratio(tensors, "layers.0.blocks.0", projection[0]),
        window_size=window,
        layer_norm_eps=layout.swin_eps,
    )
    return config, HeadsDecision(list(num_heads), "told by the relative position bias tables")


def _count(tensors: Mapping[str, Any], pattern: str) -> int:
    """How many there are, numbered from 0 without a gap: one stray key must not decide the size of the network."""
    keys = {match[1]: key for key in tensors if (match := re.match(pattern, key))}
    due = {str(number) for number in range(len(keys))}
    if stray := sorted(key for number, key in keys.items() if number not in due):
        raise ValueError(
            f"The key {escape(stray[0])!r} does not fit: {len(keys)} blocks or stages are there, which are numbered 0 "
            f"to {len(keys) - 1}. The file is incomplete or has tensors of something else; nothing was written."
        )
    return len(keys)


def _ratio(tensors: Mapping[str, Any], block: str, dim: int) -> float:
    return tensors[f"{block}.mlp.fc1.weight"].shape[0] / dim


def find_nearest_backbone(family: str, dim: int, depth: Any) -> tuple[str, bool]:
    """A short name for the shapes, and whether it is theirs; the numbers themselves are written down beside it."""
    for name, row in BACKBONES.items():
        rows_depth = list(row.depth) if isinstance(row.depth, tuple) else row.depth
        if (row.family, row.embed_dim, rows_depth) == (family, dim, depth):
            return name, True
    return {"vit": "deit-s", "swin": "swin-t"}[family], False


def vit_heads(
    dim: int, name: str, layout: Layout, given: int | None, backbone: str | None, recorded: Any
) -> HeadsDecision:
    """Decide how many heads a ViT has: no shape tells, and what the file says (`recorded`) is not believed."""
    if given is not None:
        return HeadsDecision(given, "as given by --num-heads", recorded)
    if name == "timm" and backbone is not None:
        heads: Any = find_specification(backbone).num_heads
        return HeadsDecision(heads, f"as {backbone} has it", recorded)
    if dim in layout.vit_heads:
        return HeadsDecision(layout.vit_heads[dim], f"as the code of {layout.source} builds width {dim}", recorded)
    width = layout.vit_head_width or 64
    if dim % width:
        raise ValueError(
            f"The number of attention heads of a ViT of width {dim} is not known for the layout {name!r} and changes "
            "no weight's shape: give --num-heads."
        )
    return HeadsDecision(dim // width, f"{width} channels a head, as the code of {layout.source} builds it", recorded)


def find_recorded_heads(config: dict[str, Any]) -> Any:
    """What the file's configuration says about heads; the synco-v2 authors' code does not read it."""
    waiting: list[Any] = [config]
    seen: set[int] = set()  # a pickle can hold itself
    while waiting:
        values = waiting.pop()
        if id(values) in seen:
            continue
        seen.add(id(values))
        if "NUM_HEADS" in values:
            recorded = values["NUM_HEADS"]
            numbers = recorded if isinstance(recorded, (list, tuple)) else [recorded]
            return recorded if all(type(number) is int for number in numbers) else escape(recorded)
        waiting.extend(value for value in values.values() if isinstance(value, dict))
    return None


def read_stock_configuration(
    values: Mapping[str, Any], backbone: BackboneTensors, choices: Choices
) -> tuple[SynCoConfig, HeadsDecision]:
    """Translate the config.json of a stock ViT or Swin, and refuse networks with parts that timm's have not."""
    family = str(values["model_type"])
    stock = {**_DEFAULTS[family], **(_VIT_DEFAULTS if family == "vit" else {}), **values}
    if stock["hidden_act"] != "gelu":
        raise ValueError(f"hidden_act={stock['hidden_act']!r} is not GELU, which every network of this package has.")
    shared = {
        "image_size": choices.image_size or stock["image_size"],
        "patch_size": stock["patch_size"],
        "num_channels": stock["num_channels"],
        "layer_norm_eps": stock["layer_norm_eps"],
    }
    if family == "swin":
        name, _ = find_nearest_backbone("swin", stock["embed_dim"], list(stock["depths"]))
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
        name, _ = find_nearest_backbone("vit", dim, stock["num_hidden_layers"])
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


def read_timm_arguments(arguments: Any, architecture: str, choices: Choices) -> Choices:
    """What a timm repository says it was built with, beyond the architecture's name; the rest is told by shapes."""
    known = {*_TOLD_BY_SHAPES, *_WITHOUT_EFFECT, *_OF_EVERY_NETWORK, "num_heads"}
    if not isinstance(arguments, Mapping) or set(arguments) - known:
        unknown = join_names(sorted(set(arguments) - known), 5) if isinstance(arguments, Mapping) else arguments
        raise ValueError(
            f"config.json says that the network was built with model_args ({unknown}) which no network of this "
            "package has: use it as it is, by its Hub id or directory."
        )
    name = architecture.split(".")[0]
    own = find_specification(name)
    heads = arguments.get("num_heads", own.num_heads)
    size = arguments.get("img_size")
    if isinstance(size, (list, tuple)) and len(set(size)) == 1:
        size = size[0]
    is_own = set(arguments) <= {*_WITHOUT_EFFECT, *_OF_EVERY_NETWORK}
    return Choices(
        choices.backbone or (name if is_own else None),
        choices.num_heads or (heads if own.family == "vit" else None),
        choices.image_size or (size if isinstance(size, int) else None),
    )


def refuse_other_pooling(arguments: Mapping[str, Any], config: SynCoConfig) -> None:
    """Refuse weights whose features timm pools otherwise than the network of this configuration."""
    with torch.device("meta"):
        network: Any = SynCoModel(config).backbone
    pooling, own = arguments.get("global_pool"), getattr(network, "global_pool", None)
    if pooling is not None and pooling != own:
        raise ValueError(
            f"config.json says that the network was built with global_pool={pooling!r}, and the network of this "
            f"package pools by {own!r}: use it as it is, by its Hub id or directory."
        )


def read_exported_configuration(source: CheckpointSource) -> SynCoConfig:
    """The configuration that an export of ours carries; a stranger's file must not set anything else by it."""
    if unknown := sorted(set(source.config) - {*CONFIG_FIELDS, "id2label"}):
        raise ValueError(f"{source.name} has a configuration with unknown fields {unknown[:5]}: the file is refused.")
    labels = _labels(source)
    values: dict[str, Any] = {key: value for key, value in source.config.items() if key != "id2label"}
    values |= {"id2label": labels} if labels else {}
    try:
        if "depth" in values:
            check_depth(values["depth"], len(source.content))
        return SynCoConfig(**values)
    except (TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"{source.name} has a configuration of impossible values ({error}).") from error


def _labels(source: CheckpointSource) -> dict[int, str]:
    try:
        return {int(index): str(name) for index, name in source.config.get("id2label", {}).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{source.name} has a configuration whose id2label is no map of class numbers to names ({error}): the "
            "file is refused."
        ) from error
