"""The backbones by short name (paper Table 10 and section 10.6), built from timm.

This file travels to the Hub with every checkpoint, so it imports nothing of ours but its sibling.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers.norm import LayerNorm as TimmLayerNorm
from torch import Tensor, nn
from torch.nn import functional as F

from .position_embedding_synco import set_sincos_position_embedding


@dataclass(frozen=True)
class BackboneSpecification:
    """The numbers that define a backbone; `None` keeps the default of the timm model it is built from.

    Attributes:
        family: `vit` or `swin`.
        timm_name: The timm model whose constructor is called.
        embed_dim: Width of the tokens (Swin: of the first stage).
        depth: Blocks (Swin: one number a stage).
        num_heads: Attention heads (Swin: one number a stage).
        patch_size: Side of a patch in pixels.
        image_size: Side of the input in pixels.
        window_size: Side of a Swin window in patches.
        mlp_ratio: Hidden width of a block's MLP over its width.
        position_embedding: `sincos`, or None where the family has none or timm's own is kept.
        layer_norm_eps: Epsilon of every LayerNorm.
        weight_init: timm's initialisation scheme; `moco` is MoCo v3's, with its patch projection added here.
    """

    family: str
    timm_name: str
    embed_dim: int
    depth: int | tuple[int, ...]
    num_heads: int | tuple[int, ...]
    patch_size: int
    image_size: int
    window_size: int | None = None
    mlp_ratio: float | None = None
    position_embedding: str | None = None
    layer_norm_eps: float | None = None
    weight_init: str | None = None


def _vit(timm_name: str, dim: int, depth: int, heads: int, patch: int = 16, size: int = 224) -> BackboneSpecification:
    return BackboneSpecification(
        "vit", timm_name, dim, depth, heads, patch, size, None, 4.0, "sincos", layer_norm_eps=1e-6, weight_init="moco"
    )


def _swin(
    timm_name: str,
    dim: int,
    depth: tuple[int, ...],
    heads: tuple[int, ...],
    patch: int = 4,
    size: int = 224,
    window: int = 7,
) -> BackboneSpecification:
    return BackboneSpecification("swin", timm_name, dim, depth, heads, patch, size, window, 4.0, layer_norm_eps=1e-5)


# Table 10: deit-s and swin-t. Section 10.6 names the larger and the second-version ones. `nano` ones are for small
# images, tests and the demonstration.
BACKBONES: dict[str, BackboneSpecification] = {
    "deit-t": _vit("vit_tiny_patch16_224", 192, 12, 3),
    "deit-s": _vit("vit_small_patch16_224", 384, 12, 6),
    "vit-b": _vit("vit_base_patch16_224", 768, 12, 12),
    "vit-l": _vit("vit_large_patch16_224", 1024, 24, 16),
    "vit-nano": _vit("vit_tiny_patch16_224", 96, 3, 3, patch=8, size=32),
    "swin-t": _swin("swin_tiny_patch4_window7_224", 96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin-s": _swin("swin_small_patch4_window7_224", 96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin-b": _swin("swin_base_patch4_window7_224", 128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin-v2-t": _swin("swinv2_tiny_window8_256", 96, (2, 2, 6, 2), (3, 6, 12, 24), size=256, window=8),
    "swin-nano": _swin("swin_tiny_patch4_window7_224", 48, (2, 2), (2, 4), patch=2, size=32, window=4),
}


# A timm name belongs to a family by the module of timm that defines it.
TIMM_MODULES: dict[str, list[str]] = {
    "vit": ["vision_transformer", "deit"],
    "swin": ["swin_transformer", "swin_transformer_v2"],
}

# Kinds of LayerNorm, by the end of their module's name.
LAYER_NORM_KINDS: dict[str, str] = {
    "block_attention": r"\bnorm1$",
    "block_mlp": r"\bnorm2$",
    "patch_embedding": r"^patch_embed\.norm$",
    "patch_merging": r"\bdownsample\.norm$",
    "final": r"^(norm|fc_norm)$",
}

# Where autocast computes a LayerNorm in float32. A CPU's leaves it in the type of its input.
KEEPS_BFLOAT16_ON = frozenset({"cuda"})


def suggest(name: str, known: Iterable[str]) -> str:
    """` Did you mean …?` with the nearest known names, or nothing.

    Args:
        name: What was given.
        known: What there is.
    """
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


@functools.cache
def find_specification(backbone: str) -> BackboneSpecification:
    """What a backbone's name stands for.

    Args:
        backbone: A short name of `BACKBONES`, or the name of a timm ViT or Swin.

    Returns:
        The row of `BACKBONES`, or timm's own numbers, read off the network.

    Raises:
        ValueError: If the name is unknown, with the nearest names, or is another kind of network.
    """
    if backbone in BACKBONES:
        return BACKBONES[backbone]
    for family, modules in TIMM_MODULES.items():
        if timm.models.is_model_in_modules(backbone, modules):
            with torch.device("meta"):
                return _describe(family, backbone, timm.create_model(backbone, num_classes=0))
    short = ", ".join(BACKBONES)
    if timm.is_model(backbone):
        raise ValueError(
            f"backbone={backbone!r} is neither a ViT nor a Swin of timm: use one of those, or of {short}."
        )
    modules = [module for modules in TIMM_MODULES.values() for module in modules]
    known = [*BACKBONES, *(name for module in modules for name in timm.list_models(module=module))]
    raise ValueError(
        f"backbone={backbone!r} is unknown: use a short name ({short}) or the name of a timm ViT or Swin."
        f"{suggest(backbone, known)}"
    )


def _describe(family: str, timm_name: str, network: Any) -> BackboneSpecification:
    """Read the numbers that change no weight's shape, or that users and checks need, off a built network."""
    stages = [network.blocks] if family == "vit" else [stage.blocks for stage in network.layers]
    depth = tuple(len(blocks) for blocks in stages)
    num_heads = tuple(next(m.num_heads for m in blocks.modules() if hasattr(m, "num_heads")) for blocks in stages)
    patch_size = network.patch_embed.patch_size[0]
    return BackboneSpecification(
        family,
        timm_name,
        embed_dim=network.patch_embed.proj.out_channels,
        depth=depth[0] if family == "vit" else depth,
        num_heads=num_heads[0] if family == "vit" else num_heads,
        patch_size=patch_size,
        # Not `img_size`: a few timm networks are declared with a rest of pixels that no patch covers.
        image_size=network.patch_embed.grid_size[0] * patch_size,
    )


def build_backbone(config: Any) -> nn.Module:
    """Build the timm network that a `SynCoConfig` describes, with timm's own initialisation.

    Short ViT names equal `timm.create_model(..., weight_init="moco")` bit for bit for the same seed; then the patch
    projection is drawn by xavier-uniform over the flattened patch with a zero bias, as in MoCo v3, and the position
    embedding is replaced by the fixed one. Every network takes images of any size that is a whole number of patches;
    refusing other sizes than the config's is left to the model.

    Args:
        config: A `SynCoConfig`.

    Returns:
        The headless timm network; a pooled feature comes from `forward_head(features, pre_logits=True)`.

    Raises:
        ValueError: If the numbers are impossible.
    """
    config.check()
    network: nn.Module = timm.create_model(**make_timm_arguments(config))
    _set_layer_norm_eps(network, config.layer_norm_eps)
    _redraw_weights_at_the_bounds(network)
    if find_specification(config.backbone).weight_init == "moco":
        _initialise_patch_projection(network)
    if config.position_embedding == "sincos":
        set_sincos_position_embedding(network)
    _keep_bfloat16(network)
    return network


def make_timm_arguments(config: Any) -> dict[str, Any]:
    """What `timm.create_model` is called with for a `SynCoConfig`."""
    specification = find_specification(config.backbone)
    is_swin = specification.family == "swin"
    arguments = {
        "model_name": specification.timm_name,
        "num_classes": 0,
        "in_chans": config.num_channels,
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "depths" if is_swin else "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "window_size": config.window_size,
        "drop_path_rate": config.drop_path_rate,
        "weight_init": specification.weight_init,
        # Swin's masks are computed for the size that comes instead of being kept as buffers: same numbers, same time.
        "strict_img_size" if is_swin else "dynamic_img_size": not is_swin,
    }
    return {name: value for name, value in arguments.items() if value is not None}


@torch.no_grad()
def _redraw_weights_at_the_bounds(network: nn.Module) -> None:
    """Redraw what timm's `trunc_normal_(std=0.02)` left at its bounds of 2.0, where float32 ends its inverse error.

    Source: about one weight in 2**24, a hundred standard deviations out; timm 1.0.
    """
    for weight in network.parameters():
        if not weight.is_meta:
            at_bounds = weight.abs() == 2.0
            weight[at_bounds] = 0.02 * torch.randn(int(at_bounds.sum()), device=weight.device)


@torch.no_grad()
def _initialise_patch_projection(network: Any) -> None:
    """Draw it as MoCo v3 and the authors do: a linear layer over the flattened patch, without a bias at first."""
    nn.init.xavier_uniform_(network.patch_embed.proj.weight.flatten(1))
    nn.init.zeros_(network.patch_embed.proj.bias)


def is_vision_transformer(network: nn.Module) -> bool:
    """Whether the network is a timm ViT (blocks over one sequence) rather than a Swin (stages of windows)."""
    return hasattr(network, "blocks")


def _set_layer_norm_eps(network: nn.Module, eps: float | dict[str, float] | None) -> None:
    if eps is None:
        return
    for name, module in network.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps.get(_layer_norm_kind(name), module.eps) if isinstance(eps, dict) else eps


def _layer_norm_kind(name: str) -> str:
    return next((kind for kind, pattern in LAYER_NORM_KINDS.items() if re.search(pattern, name)), "other")


class LayerNormKeepingBFloat16(nn.LayerNorm):
    """A LayerNorm that under bfloat16 autocast takes and gives bfloat16, its sums in float32 as ever.

    Autocast would compute it in float32 on CUDA, and every residual after it: for that it copies the tokens there and
    back in each block.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise over the last dimension."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            is_kept = _keeps_bfloat16(input)
            if is_kept:
                return _normalise_in_bfloat16(self, input)
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class EmbeddingKeepingBFloat16(nn.Identity):
    """A ViT's embedded tokens, in bfloat16 where its norms are: adding the position embedding made them float32."""

    def forward(self, input: Tensor) -> Tensor:
        """Nothing else."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            is_kept = _keeps_bfloat16(input)
            if is_kept:
                return input.bfloat16()
        return input


def _normalise_in_bfloat16(norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    weight, bias = (each if each is None else each.bfloat16() for each in (norm.weight, norm.bias))
    with torch.autocast(tokens.device.type, enabled=False):
        return F.layer_norm(tokens.bfloat16(), norm.normalized_shape, weight, bias, norm.eps)


def _keeps_bfloat16(tokens: Tensor) -> bool:
    device = tokens.device.type
    return (
        device in KEEPS_BFLOAT16_ON
        and torch.is_autocast_enabled(device)
        and torch.get_autocast_dtype(device) == torch.bfloat16
    )


def _keep_bfloat16(network: Any) -> None:
    """Let norms and residuals stay in bfloat16 under its autocast; the final norm gives float32 features as ever.

    timm's `set_fast_norm` is for all networks of a process, and for none that uses torch's LayerNorm, as Swin does.
    """
    for name, module in network.named_modules():
        is_plain = type(module) in (nn.LayerNorm, TimmLayerNorm) and not getattr(module, "_fast_norm", False)
        if is_plain and _layer_norm_kind(name) != "final":
            module.__class__ = LayerNormKeepingBFloat16  # weights, their names and hooks stay
    if type(getattr(network, "norm_pre", None)) is nn.Identity:
        network.norm_pre = EmbeddingKeepingBFloat16()


def refuse_other_backbone(info: dict[str, Any]) -> None:
    """Refuse what `transformers` only reports: a backbone that is random, or deeper in the checkpoint than here.

    A pretraining checkpoint's target network is another model's affair.

    Raises:
        ValueError: Naming the first weights that differ.
    """
    faults = {
        "are missing": info["missing_keys"],
        "have another shape": [entry[0] for entry in info["mismatched_keys"]],
        "are in the checkpoint only": info["unexpected_keys"],
    }
    for fault, keys in faults.items():
        if ours := sorted(key for key in keys if key.startswith(("backbone.", "synco.backbone."))):
            raise ValueError(
                f"The checkpoint's backbone is not the config's: {len(ours)} weights {fault} (first: {ours[:3]}). "
                "Correct the config, or bring a foreign checkpoint into this key layout first."
            )
