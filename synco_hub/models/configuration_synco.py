"""`SynCoConfig`: which backbone, at which size, with which position embedding (paper section 7.2, Table 10).

This file travels to the Hub with every checkpoint, so it imports nothing of ours but its sibling.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PretrainedConfig

from .backbones_synco import BACKBONES, BackboneSpecification, suggest

POSITION_EMBEDDINGS = ("sincos", "learned")
LAYER_NORM_KINDS = ("block_attention", "block_mlp", "patch_embedding", "patch_merging", "final")


class SynCoConfig(PretrainedConfig):
    """Configuration of a SynCo-v2, MoBY or BYOL backbone.

    Fields left at `None` take the value of the named backbone; for a plain timm name they keep timm's own default.
    The number of heads is always written down: it changes no weight shape, so a checkpoint that loses it loads
    silently and computes wrong features.

    Args:
        backbone: A short name of `BACKBONES` (`deit-s`, `swin-t`, `vit-b`, …) or the name of a timm ViT or Swin.
        image_size: Side of the square input in pixels.
        patch_size: Side of a patch in pixels.
        num_channels: Colour channels of the input.
        embed_dim: Width of the tokens (Swin: of the first stage; it doubles at every stage).
        depth: Number of blocks (Swin: one number a stage).
        num_heads: Attention heads (Swin: one number a stage).
        mlp_ratio: Hidden width of a block's MLP over the width of its tokens.
        window_size: Side of a Swin attention window in patches; `None` for a ViT.
        drop_path_rate: Stochastic depth at the last block, rising linearly from 0 at the first.
        position_embedding: `sincos` (fixed 2-D sine and cosine, never trained: Table 15's 51.93 % trainable
            parameters hold only so) or `learned`; `None` for Swin, which has relative position biases instead.
        layer_norm_eps: One epsilon for every LayerNorm, or one for each kind of norm (`LAYER_NORM_KINDS`); converted
            checkpoints need the latter. `None` keeps timm's.
        classifier_dropout: Dropout before the linear classifier (paper section 7.6 uses 0.1 for fine-tuning).
        hidden_size: Dimension of the pooled feature; derived from the backbone, not meant to be given.
        pretraining: What defined the pretraining network and objective, as plain data; written by the trainer.
        **kwargs: Everything `transformers.PretrainedConfig` knows (labels, dtype, …).

    Raises:
        ValueError: If the backbone is unknown, the heads do not divide the width, or the image does not fit the
            patches and windows.

    Source: paper Table 10; the fixed position embedding is that of MoCo v3, which the paper's parameter counts imply.
    """

    model_type = "synco"
    attribute_map: ClassVar[dict[str, str]] = {
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "depth",
    }

    def __init__(
        self,
        backbone: str = "deit-s",
        image_size: int | None = None,
        patch_size: int | None = None,
        num_channels: int = 3,
        embed_dim: int | None = None,
        depth: int | list[int] | None = None,
        num_heads: int | list[int] | None = None,
        mlp_ratio: float | None = None,
        window_size: int | None = None,
        drop_path_rate: float = 0.0,
        position_embedding: str | None = None,
        layer_norm_eps: float | dict[str, float] | None = None,
        classifier_dropout: float = 0.0,
        hidden_size: int | None = None,
        pretraining: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        known = BACKBONES.get(backbone)
        specification = known or BackboneSpecification(family="timm", timm_name=backbone)
        self.backbone = backbone
        self.image_size = image_size if image_size is not None else specification.image_size
        self.patch_size = patch_size if patch_size is not None else specification.patch_size
        self.num_channels = num_channels
        self.embed_dim = embed_dim if embed_dim is not None else specification.embed_dim
        self.depth = _plain(depth if depth is not None else specification.depth)
        self.num_heads = _plain(num_heads if num_heads is not None else specification.num_heads)
        self.mlp_ratio = mlp_ratio if mlp_ratio is not None else specification.mlp_ratio
        self.window_size = window_size if window_size is not None else specification.window_size
        self.drop_path_rate = drop_path_rate
        self.position_embedding = position_embedding or specification.position_embedding
        self.layer_norm_eps = layer_norm_eps if layer_norm_eps is not None else specification.layer_norm_eps
        self.classifier_dropout = classifier_dropout
        self.hidden_size = hidden_size or _hidden_size(self.embed_dim, self.depth)
        self.pretraining = pretraining
        self._validate(specification)
        super().__init__(**kwargs)

    def _validate(self, specification: BackboneSpecification) -> None:
        """Refuse numbers that timm would accept silently or reject deep inside a constructor."""
        if self.position_embedding not in (None, *POSITION_EMBEDDINGS):
            raise ValueError(
                f"position_embedding={self.position_embedding!r} is not known: use one of {list(POSITION_EMBEDDINGS)}."
                + suggest(str(self.position_embedding), POSITION_EMBEDDINGS)
            )
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate={self.drop_path_rate} is not in [0, 1): the paper uses 0.2.")
        if isinstance(self.layer_norm_eps, dict) and (unknown := set(self.layer_norm_eps) - set(LAYER_NORM_KINDS)):
            raise ValueError(f"layer_norm_eps names {sorted(unknown)}, but the kinds are {list(LAYER_NORM_KINDS)}.")
        positive = {name: getattr(self, name) for name in ("image_size", "patch_size", "embed_dim", "window_size")}
        for name, value in positive.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not positive: give a whole number of at least 1.")
        _check_heads(self.embed_dim, self.num_heads)
        _check_grid(self.image_size, self.patch_size, self.window_size, self.depth)
        if specification.family == "swin" and self.position_embedding is not None:
            raise ValueError(
                f"position_embedding={self.position_embedding!r} was given for {self.backbone!r}, but a Swin has "
                "relative position biases instead: leave it out."
            )
        if self.position_embedding == "sincos" and self.embed_dim is not None and self.embed_dim % 4:
            raise ValueError(
                f"embed_dim={self.embed_dim} is not divisible by 4, which the 2-D sine-cosine position embedding "
                "needs: change embed_dim or set position_embedding='learned'."
            )


def _plain(value: int | list[int] | tuple[int, ...] | None) -> int | list[int] | None:
    """JSON knows no tuples: a value must equal itself after a round trip through config.json."""
    return list(value) if isinstance(value, (list, tuple)) else value


def _hidden_size(embed_dim: int | None, depth: int | list[int] | None) -> int | None:
    """Width of the last stage; None until a plain timm name has been built."""
    if embed_dim is None:
        return None
    return embed_dim * 2 ** (len(depth) - 1) if isinstance(depth, list) else embed_dim


def _check_heads(embed_dim: int | None, num_heads: int | list[int] | None) -> None:
    if embed_dim is None or num_heads is None:
        return
    stages = num_heads if isinstance(num_heads, list) else [num_heads]
    for stage, heads in enumerate(stages):
        width = embed_dim * 2**stage
        if heads < 1 or width % heads:
            divisors = [n for n in range(1, min(width, 33)) if width % n == 0]
            raise ValueError(
                f"num_heads={heads} does not divide the width {width}: every head needs the same number of "
                f"channels; use one of {divisors}."
            )


def _check_grid(image_size: int | None, patch_size: int | None, window: int | None, depth: Any) -> None:
    if image_size is None or patch_size is None:
        return
    if image_size % patch_size:
        lower = max(image_size // patch_size, 1) * patch_size
        raise ValueError(
            f"image_size={image_size} is not a multiple of patch_size={patch_size}: use {lower} or "
            f"{lower + patch_size}, or another patch size."
        )
    if window is None or not isinstance(depth, list):
        return
    last_stage = 2 ** (len(depth) - 1)
    grid = image_size // patch_size
    multiple = patch_size * window * last_stage
    fits_last = grid % last_stage == 0 and (grid // last_stage <= window or (grid // last_stage) % window == 0)
    fits_all = all((grid // 2**s) <= window or (grid // 2**s) % window == 0 for s in range(len(depth)))
    if not (fits_last and fits_all):
        raise ValueError(
            f"image_size={image_size} does not fit window_size={window} with patch_size={patch_size} over "
            f"{len(depth)} stages: every stage's grid must be a whole number of windows; use a multiple of {multiple}."
        )
