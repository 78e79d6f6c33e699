"""A foreign backbone as a `SynCoModel`: its keys, its configuration, and every tensor accounted for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from synco_hub.hub.conversion.layouts import Layout, embedding_width, has_sincos_position_embedding
from synco_hub.hub.conversion.source import load_tensor, shape_of
from synco_hub.hub.weight_fit import misfit
from synco_hub.models import BACKBONES, SynCoConfig
from synco_hub.models.backbones_synco import specification_of

_BUFFERS = ("relative_position_index", "attn_mask", "relative_coords_table")
_HEAD_KEYS = {
    "head.weight": "weight",
    "head.bias": "bias",
    "head.fc.weight": "weight",
    "head.fc.bias": "bias",
}
_SWIN_HEADS = "--num-heads was given, but a Swin's heads are told by the shapes of its weights: leave it out."


@dataclass(frozen=True)
class BackboneTensors:
    """A backbone's tensors under timm's names.

    Attributes:
        tensors: timm key to tensor.
        head: `weight` (num_classes, dim) and `bias` (num_classes,) of a linear classifier, or empty.
        dropped: Key to why it is not carried over.
        facts: What was done to the names, in words.
        grid: Patches along a side of the image, where stored masks tell it.
    """

    tensors: dict[str, Any]
    head: dict[str, Any]
    dropped: dict[str, str]
    facts: list[str]
    grid: int | None = None


def timm_names(found: Mapping[str, Any]) -> BackboneTensors:
    """Bring a backbone's keys into timm's names.

    Args:
        found: Keys of timm or of Microsoft's Swin to tensors.
    """
    dropped = {key: "computed from the window" for key in found if key.rsplit(".", 1)[-1] in _BUFFERS}
    rest = {key: value for key, value in found.items() if key not in dropped}
    head = {name: rest.pop(key) for key, name in _HEAD_KEYS.items() if key in rest and len(shape_of(rest[key])) < 3}
    projection = [key for key in rest if re.match(r"head\.\d", key)]
    for key in projection:
        dropped[key] = "projection head of the pretraining"
        del rest[key]
    facts = []
    if any(key.startswith("layers.0.downsample.") for key in rest):
        # Microsoft merges patches at the end of a stage, timm at the start of the next.
        rest = {_later_stage(key): value for key, value in rest.items()}
        facts.append("Microsoft's patch merging at the end of a stage became timm's at the start of the next")
    return BackboneTensors(rest, head, dropped, facts, _stored_grid(found))


def _later_stage(key: str) -> str:
    return re.sub(r"^layers\.(\d+)\.downsample\.", lambda match: f"layers.{int(match[1]) + 1}.downsample.", key)


def _stored_grid(found: Mapping[str, Any]) -> int | None:
    """Patches a side of the first stage, from its stored mask of shape (windows, area, area)."""
    mask = next((shape_of(found[k]) for k in found if re.fullmatch(r"layers\.0\.blocks\.\d+\.attn_mask", k)), None)
    return None if mask is None else round(mask[0] ** 0.5) * round(mask[1] ** 0.5)


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


def configuration_of(
    backbone: BackboneTensors, layout_name: str, layout: Layout, choices: Choices, recorded: Any = None
) -> tuple[SynCoConfig, HeadsDecision]:
    """The configuration that the shapes and the layout tell.

    Args:
        backbone: Tensors under timm's names.
        layout_name: Name of the layout, for the reason.
        layout: What it says where shapes say nothing.
        choices: What the user decided.
        recorded: What the file's configuration says about heads, if anything.

    Raises:
        ValueError: If the shapes are no ViT's or Swin's.
    """
    try:
        if choices.backbone is not None:
            return _named_configuration(backbone, layout_name, layout, choices, recorded)
        if embedding_width(backbone.tensors) is not None:
            return _vit_configuration(backbone.tensors, layout_name, layout, choices, recorded)
        return _swin_configuration(backbone, layout, choices)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"The weights are neither a ViT's nor a Swin's ({error} is missing or misshapen; first keys: "
            f"{sorted(backbone.tensors)[:5]}): give --backbone and the right --layout."
        ) from error


def _named_configuration(
    backbone: BackboneTensors, layout_name: str, layout: Layout, choices: Choices, recorded: Any
) -> tuple[SynCoConfig, HeadsDecision]:
    """The backbone that the user names; whether the shapes are its own is seen when they are loaded."""
    name = choices.backbone or ""
    own = specification_of(name)
    tensors = backbone.tensors
    size, grid, position_embedding = choices.image_size, backbone.grid, None
    if "pos_embed" in tensors and own.family == "vit":
        grid = round((shape_of(tensors["pos_embed"])[1] - 1) ** 0.5)
        position_embedding = (
            "sincos" if has_sincos_position_embedding(load_tensor(tensors["pos_embed"])) else "learned"
        )
    if own.family == "vit":
        heads = _vit_heads(own.embed_dim, layout_name, layout, choices.num_heads, name, recorded)
    elif choices.num_heads is not None:
        raise ValueError(_SWIN_HEADS)
    else:
        heads = HeadsDecision(list(own.num_heads), f"as {name} has it")  # type: ignore[arg-type]
    # Networks that timm alone knows keep timm's epsilon.
    eps = None if name not in BACKBONES else layout.vit_eps if own.family == "vit" else layout.swin_eps
    config = SynCoConfig(
        name,
        image_size=grid * own.patch_size if size is None and grid else size,
        num_heads=heads.num_heads,
        position_embedding=position_embedding,
        layer_norm_eps=eps,
    )
    return config, heads


def _vit_configuration(
    tensors: Mapping[str, Any], layout_name: str, layout: Layout, choices: Choices, recorded: Any
) -> tuple[SynCoConfig, HeadsDecision]:
    dim, patch = shape_of(tensors["cls_token"])[-1], shape_of(tensors["patch_embed.proj.weight"])[-1]
    depth = _count(tensors, r"blocks\.(\d+)\.")
    grid = round((shape_of(tensors["pos_embed"])[1] - 1) ** 0.5)
    backbone, certain = nearest_backbone("vit", dim, depth)
    heads = _vit_heads(dim, layout_name, layout, choices.num_heads, backbone if certain else None, recorded)
    fixed = has_sincos_position_embedding(load_tensor(tensors["pos_embed"]))
    config = SynCoConfig(
        backbone,
        image_size=grid * patch if choices.image_size is None else choices.image_size,
        patch_size=patch,
        num_channels=shape_of(tensors["patch_embed.proj.weight"])[1],
        embed_dim=dim,
        depth=depth,
        num_heads=heads.num_heads,
        mlp_ratio=_ratio(tensors, "blocks.0", dim),
        position_embedding="sincos" if fixed else "learned",
        layer_norm_eps=layout.vit_eps,
    )
    return config, heads


def _vit_heads(
    dim: int, name: str, layout: Layout, given: int | None, backbone: str | None, recorded: Any
) -> HeadsDecision:
    if given is not None:
        return HeadsDecision(given, "as given by --num-heads", recorded)
    if name == "timm" and backbone is not None:
        heads: Any = specification_of(backbone).num_heads
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


def _swin_configuration(
    backbone: BackboneTensors, layout: Layout, choices: Choices
) -> tuple[SynCoConfig, HeadsDecision]:
    if choices.num_heads is not None:
        raise ValueError(_SWIN_HEADS)
    tensors = backbone.tensors
    projection = shape_of(tensors["patch_embed.proj.weight"])
    stages = _count(tensors, r"layers\.(\d+)\.")
    depth = [_count(tensors, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)]
    tables = [
        shape_of(tensors[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"]) for stage in range(stages)
    ]
    # A window is no larger than its grid, so the first stages tell it: the table has (2 * window - 1)² rows.
    window = max((round(rows**0.5) + 1) // 2 for rows, _ in tables)
    num_heads = [heads for _, heads in tables]
    name, _ = nearest_backbone("swin", projection[0], depth)
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
    """How many there are, numbered from 0 without a gap: one stray key must not decide the size of the network.

    Raises:
        ValueError: Naming a key whose number does not follow.
    """
    keys = {match[1]: key for key in tensors if (match := re.match(pattern, key))}
    due = {str(number) for number in range(len(keys))}
    if stray := sorted(key for number, key in keys.items() if number not in due):
        raise ValueError(
            f"The key {stray[0]!r:.200} does not fit: {len(keys)} blocks or stages are there, which are numbered 0 to "
            f"{len(keys) - 1}. The file is incomplete or has tensors of something else; nothing was written."
        )
    return len(keys)


def _ratio(tensors: Mapping[str, Any], block: str, dim: int) -> float:
    return shape_of(tensors[f"{block}.mlp.fc1.weight"])[0] / dim


def nearest_backbone(family: str, dim: int, depth: Any) -> tuple[str, bool]:
    """A short name for the shapes, and whether it is theirs; the numbers themselves are written down beside it."""
    for name, row in BACKBONES.items():
        rows_depth = list(row.depth) if isinstance(row.depth, tuple) else row.depth
        if (row.family, row.embed_dim, rows_depth) == (family, dim, depth):
            return name, True
    return {"vit": "deit-s", "swin": "swin-t"}[family], False


def load_strictly(module: nn.Module, found: Mapping[str, Any], what: str) -> None:
    """Load tensors, every one of them and no other.

    Args:
        module: What takes them.
        found: Key to tensor.
        what: What to call it in an error.

    Raises:
        ValueError: Listing missing, superfluous and wrong-shaped keys, or those that are not finite.
    """
    wanted = module.state_dict()
    refuse_misfit({key: tuple(value.shape) for key, value in wanted.items()}, found, what)
    read = {key: finite(key, load_tensor(value)) for key, value in found.items()}
    module.load_state_dict({key: value.to(wanted[key].dtype) for key, value in read.items()})


def refuse_misfit(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, Any], what: str) -> None:
    """Refuse tensors that are not those of a network.

    Args:
        wanted: Key to shape of the network.
        found: Key to tensor.
        what: What to call it in an error.

    Raises:
        ValueError: Listing missing, superfluous and wrong-shaped keys.
    """
    if listed := misfit(wanted, {key: shape_of(value) for key, value in found.items()}):
        raise ValueError(
            f"The tensors of {what} do not fit ({listed}). Nothing was written: give the right --layout, --backbone, "
            "--image-size or file."
        )


def finite(key: str, tensor: Tensor) -> Tensor:
    """The tensor itself.

    Raises:
        ValueError: If it holds NaN or infinities.
    """
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{key} holds NaN or infinite numbers: the checkpoint is spoilt, nothing was written.")
    return tensor
