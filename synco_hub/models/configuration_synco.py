"""`SynCoConfig`: which backbone, at which size, with which position embedding (paper section 7.2, Table 10).

This file travels to the Hub with every checkpoint, so it imports nothing of ours but its sibling.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PretrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from .backbones_synco import LAYER_NORM_KINDS, find_specification, suggest

POSITION_EMBEDDINGS = ("sincos", "learned")


class SynCoConfig(BackboneConfigMixin, PretrainedConfig):  # type: ignore[misc]
    """Configuration of a SynCo-v2, MoBY or BYOL backbone.

    Fields left at `None` take the value of the named backbone. Sizes, depth and heads are always written down: the
    number of heads changes no weight shape, so a checkpoint that lost it would load silently and compute wrong
    features.

    Args:
        backbone: A short name of `BACKBONES` (`deit-s`, `swin-t`, `vit-b`, …) or the name of a timm ViT or Swin.
        image_size: Side of the square input in pixels.
        patch_size: Side of a patch in pixels.
        num_channels: Colour channels of the input.
        embed_dim: Width of the tokens (Swin: of the first stage; it doubles at every stage).
        depth: Number of blocks (Swin: one number a stage).
        num_heads: Attention heads (Swin: one number a stage).
        mlp_ratio: Hidden width of a block's MLP over the width of its tokens.
        window_size: Side of a Swin attention window in patches; `None` for a ViT, and for a plain timm name timm's.
        drop_path_rate: Stochastic depth at the last block, rising linearly from 0 at the first.
        position_embedding: `sincos` (fixed 2-D sine and cosine, never trained: Table 15's 51.93 % trainable
            parameters hold only so) or `learned`; `None` for Swin, which has relative position biases instead, and
            for a plain timm name timm's own.
        layer_norm_eps: One epsilon for every LayerNorm, or one for each kind of norm (`LAYER_NORM_KINDS`); converted
            checkpoints need the latter. `None` keeps timm's.
        classifier_dropout: Dropout before the linear classifier (paper section 7.6 uses 0.1 for fine-tuning).
        pretraining: What defined the pretraining network and objective, as plain data; written by the trainer.
        out_features: Names of the feature maps that `SynCoBackbone` gives, among `stage_names`, in their order.
        out_indices: The same by position: 0 is the embedding, i the i-th block (Swin: stage). Without both the last,
            with `pyramid` four that are evenly spaced.
        apply_layernorm: Whether `SynCoBackbone` puts the final norm on its maps (Swin: on the last stage's).
        pyramid: Whether `SynCoBackbone` resizes the maps of a ViT to strides of 4, 8, 16, 32, … pixels in their order,
            a single one to each of these four.
        **kwargs: Everything `transformers.PretrainedConfig` knows (labels, dtype, …).

    Attributes:
        hidden_size: Dimension of the pooled feature, which follows from `embed_dim` and `depth`.
        stage_names: `stem` and `stage1` to the last block (Swin: stage).

    Raises:
        ValueError: If the backbone is unknown, the heads do not divide the width, the image does not fit the patches
            and windows, another number is impossible, or a feature map is asked for that there is not.

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
        pretraining: dict[str, Any] | None = None,
        out_features: list[str] | None = None,
        out_indices: list[int] | tuple[int, ...] | None = None,
        apply_layernorm: bool = False,
        pyramid: bool = False,
        **kwargs: Any,
    ) -> None:
        own = find_specification(backbone)
        self.backbone = backbone
        self.image_size = own.image_size if image_size is None else image_size
        self.patch_size = own.patch_size if patch_size is None else patch_size
        self.num_channels = num_channels
        self.embed_dim = own.embed_dim if embed_dim is None else embed_dim
        self.depth = _plain(own.depth if depth is None else depth)
        self.num_heads = _plain(own.num_heads if num_heads is None else num_heads)
        self.mlp_ratio = own.mlp_ratio if mlp_ratio is None else mlp_ratio
        self.window_size = own.window_size if window_size is None else window_size
        self.drop_path_rate = drop_path_rate
        self.position_embedding = own.position_embedding if position_embedding is None else position_embedding
        self.layer_norm_eps = own.layer_norm_eps if layer_norm_eps is None else layer_norm_eps
        self.classifier_dropout = classifier_dropout
        self.pretraining = pretraining
        self.apply_layernorm, self.pyramid = apply_layernorm, pyramid
        self._out_features: list[str] | None = None
        self._out_indices: list[int] | None = None
        self.check()
        kwargs.pop("hidden_size", None)  # it is in every config.json
        self.hidden_size = self.embed_dim * 2 ** (len(_stages(self.depth)) - 1)
        super().__init__(**kwargs)
        if out_features is not None or out_indices is not None:
            chosen = None if out_indices is None else list(out_indices)
            self.set_output_features_output_indices(out_features, chosen)

    @property
    def stage_names(self) -> list[str]:
        """Names of the feature maps: the embedding, then every block of a ViT, every stage of a Swin."""
        number = self.depth if isinstance(self.depth, int) else len(self.depth)
        return ["stem", *(f"stage{k}" for k in range(1, number + 1))]

    def choose_feature_maps(self) -> None:
        """Settle which maps a `SynCoBackbone` gives, if nobody chose.

        Raises:
            ValueError: If one is asked for that there is not, or a pyramid of a Swin, which is one already.
        """
        if self.pyramid and not isinstance(self.depth, int):
            raise ValueError(
                f"pyramid=True was given for {self.backbone!r}: a Swin's stages have their own strides; leave it out."
            )
        if self._out_indices is None:
            last = len(self.stage_names) - 1
            evenly = sorted({round(last * quarter / 4) for quarter in (1, 2, 3, 4)})
            self.set_output_features_output_indices(None, evenly if self.pyramid else [last])
        self.verify_out_features_out_indices()  # type: ignore[no-untyped-call]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what concerns feature maps only where it is not the default."""
        values: dict[str, Any] = super().to_dict()  # type: ignore[no-untyped-call]
        last = [len(self.stage_names) - 1]
        if values["out_indices"] is None or (values["out_indices"] == last and not self.pyramid):
            del values["out_features"], values["out_indices"]
        for name in ("apply_layernorm", "pyramid"):
            if not values[name]:
                del values[name]
        return values

    def check(self) -> None:
        """Refuse impossible numbers, here and again when a network is built.

        In between, `from_pretrained(…, num_heads=5)` sets attributes behind the constructor's back.

        Raises:
            ValueError: Naming the value, the rule and what would do.
        """
        family = find_specification(self.backbone).family
        _check_ranges(self)
        _check_stages(self, family)
        _check_grid(self.image_size, self.patch_size, self.window_size, _stages(self.depth))
        _check_position_embedding(self, family)


def _plain(value: int | list[int] | tuple[int, ...]) -> int | list[int]:
    """JSON knows no tuples: a value must equal itself after a round trip through config.json."""
    return value if isinstance(value, int) else list(value)


def _stages(value: int | list[int]) -> list[int]:
    """A ViT is a Swin of one stage."""
    return [value] if isinstance(value, int) else value


def _check_ranges(config: SynCoConfig) -> None:
    """Refuse numbers that timm would accept silently or reject deep inside a constructor."""
    for name in ("image_size", "patch_size", "num_channels", "embed_dim", "window_size"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is not positive: give a whole number of at least 1.")
    if config.mlp_ratio is not None and config.mlp_ratio <= 0:
        raise ValueError(f"mlp_ratio={config.mlp_ratio} is not positive: the paper's backbones use 4.")
    if not 0.0 <= config.drop_path_rate < 1.0:
        raise ValueError(f"drop_path_rate={config.drop_path_rate} is not in [0, 1): the paper uses 0.2.")
    if not 0.0 <= config.classifier_dropout < 1.0:
        raise ValueError(f"classifier_dropout={config.classifier_dropout} is not in [0, 1): the paper uses 0.1.")
    eps = config.layer_norm_eps
    if isinstance(eps, dict) and (unknown := sorted(set(eps) - set(LAYER_NORM_KINDS))):
        raise ValueError(f"layer_norm_eps names {unknown}, but the kinds are {list(LAYER_NORM_KINDS)}.")


def _check_stages(config: SynCoConfig, family: str) -> None:
    """Depth, heads and windows that suit the family, and heads that divide the width."""
    if family == "vit" and config.window_size is not None:
        raise ValueError(
            f"window_size={config.window_size} was given for {config.backbone!r}, but a ViT attends globally: leave "
            "it out."
        )
    for name in ("depth", "num_heads"):
        value = getattr(config, name)
        if isinstance(value, list) != (family == "swin"):
            wanted = "a list with one number a stage" if family == "swin" else "one number"
            raise ValueError(f"{name}={value} does not suit {config.backbone!r}: give {wanted}.")
        if min(_stages(value), default=0) < 1:
            raise ValueError(f"{name}={value} is not positive: every stage needs at least 1.")
    depth, num_heads = _stages(config.depth), _stages(config.num_heads)
    if len(depth) != len(num_heads):
        raise ValueError(
            f"depth={depth} has {len(depth)} stages, num_heads={num_heads} has {len(num_heads)}: give both with the "
            "same number of stages."
        )
    for stage, heads in enumerate(num_heads):
        width = config.embed_dim * 2**stage
        if width % heads:
            divisors = [n for n in range(1, 33) if width % n == 0]
            raise ValueError(
                f"num_heads={heads} does not divide the width {width}: every head needs the same number of "
                f"channels; use one of {divisors}."
            )


def _check_grid(image_size: int, patch_size: int, window_size: int | None, stages: list[int]) -> None:
    if image_size % patch_size:
        lower = max(image_size // patch_size, 1) * patch_size
        raise ValueError(
            f"image_size={image_size} is not a multiple of patch_size={patch_size}: use {lower} or "
            f"{lower + patch_size}, or another patch size."
        )
    if window_size is None:
        return
    # timm shrinks a window that is larger than its grid to the grid, and would silently pad any other misfit.
    grids = [image_size / patch_size / 2**stage for stage in range(len(stages))]
    if not all(grid.is_integer() and (grid <= window_size or grid % window_size == 0) for grid in grids):
        raise ValueError(
            f"image_size={image_size} does not fit window_size={window_size} with patch_size={patch_size} over "
            f"{len(stages)} stages: every stage's grid must be a whole number of windows; use a multiple of "
            f"{patch_size * window_size * 2 ** (len(stages) - 1)}."
        )


def _check_position_embedding(config: SynCoConfig, family: str) -> None:
    given = config.position_embedding
    if given not in (None, *POSITION_EMBEDDINGS):
        raise ValueError(
            f"position_embedding={given!r} is not known: use one of {list(POSITION_EMBEDDINGS)}."
            + suggest(str(given), POSITION_EMBEDDINGS)
        )
    if family == "swin" and given is not None:
        raise ValueError(
            f"position_embedding={given!r} was given for {config.backbone!r}, but a Swin has relative position biases "
            "instead: leave it out."
        )
