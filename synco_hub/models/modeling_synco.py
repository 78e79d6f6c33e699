"""`SynCoModel`, `SynCoForImageClassification` and `SynCoBackbone`: timm's ViT and Swin as `transformers` models.

This file travels to the Hub with every checkpoint, so it imports nothing of ours but its siblings. Three traps of
wrapping timm are handled here: `post_init` must not draw timm's weights anew, `from_pretrained` builds on the meta
device and leaves non-persistent buffers (Swin's window indices and masks) uninitialised, and it makes every parameter
trainable again.
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .backbones_synco import build_backbone, refuse_other_backbone
from .configuration_synco import SynCoConfig
from .position_embedding_synco import fit_loaded_position_embeddings
from .recording_synco import forward_features, use_fused_attention

AUTO_MAP = {
    "AutoConfig": "configuration_synco.SynCoConfig",
    "AutoModel": "modeling_synco.SynCoModel",
    "AutoModelForImageClassification": "modeling_synco.SynCoForImageClassification",
    "AutoBackbone": "modeling_synco.SynCoBackbone",
}


class SynCoPreTrainedModel(PreTrainedModel):
    """What every model of the family shares: loading, freezing, attention implementation, checkpointing, saving."""

    config_class = SynCoConfig
    base_model_prefix = "synco"
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = [  # type: ignore[misc]
        "Block",
        "SwinTransformerBlock",
        "SwinTransformerV2Block",
    ]
    # The rest of a pretraining checkpoint is no surprise when only the backbone is asked for.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [  # type: ignore[misc]
        r"^(target|target_projector|projector|predictor|queue_1|queue_2|classifier)\."
    ]

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """Leave timm's weights alone; refill the buffers that no checkpoint holds."""
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    @classmethod
    def from_pretrained(
        cls, *args: Any, output_loading_info: bool = False, ignore_mismatched_sizes: bool = False, **kwargs: Any
    ) -> Any:
        """Load like any `transformers` model, but never with a random backbone, and freeze again what is fixed.

        With another `image_size` than the checkpoint's, a fixed position embedding is computed for it, a learned one
        interpolated.

        Raises:
            ValueError: If the checkpoint's backbone is not the config's, naming the first weights that differ.
            RuntimeError: If weights have another shape and `ignore_mismatched_sizes` is not set.
        """
        load = super().from_pretrained
        loaded: Any = load(*args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
        model, info = loaded
        if info["mismatched_keys"]:

            def load_at(image_size: int) -> Any:
                config = copy.deepcopy(model.config)
                config.image_size = image_size
                further = {name: value for name, value in kwargs.items() if not hasattr(config, name)}
                return load(*args, **{**further, "config": config}, ignore_mismatched_sizes=True)

            fit_loaded_position_embeddings(model, SynCoModel, info, load_at)
        if info["mismatched_keys"] and not ignore_mismatched_sizes:
            keys = sorted(entry[0] for entry in info["mismatched_keys"])
            raise RuntimeError(
                f"The shapes of {len(keys)} weights mismatch those of the config (first: {keys[:3]}): give the config "
                "that they were made for (a Swin takes the image sizes at which its windows stay as large), or draw a "
                "classifier anew by ignore_mismatched_sizes=True."
            )
        refuse_other_backbone(info)
        model.freeze_fixed_parameters()
        return (model, info) if output_loading_info else model

    def freeze_fixed_parameters(self) -> Self:
        """Freeze what is never trained (the fixed position embedding); loading makes everything trainable."""
        for module in self.modules():
            if isinstance(module, SynCoModel) and module.config.position_embedding == "sincos":
                module.backbone.pos_embed.requires_grad_(False)
        return self

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """Switch between `eager` and `sdpa` attention (the same numbers up to rounding)."""
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        for module in self.modules():
            if isinstance(module, SynCoModel):
                use_fused_attention(module.backbone, self.config._attn_implementation == "sdpa")

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        for module in self.modules():
            if isinstance(module, SynCoModel):
                module.gradient_checkpointing = enable
                module.backbone.set_grad_checkpointing(enable)

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, *args: Any, **kwargs: Any) -> None:
        """Save weights, config and the model code, so that `trust_remote_code=True` loads without this package."""
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            custom_object_save(SynCoModel, save_directory)


class SynCoModel(SynCoPreTrainedModel):
    """A headless ViT or Swin whose pooled output is the frozen feature of the paper's protocols.

    Args:
        config: Which backbone, see `SynCoConfig`.

    Source: paper sections 7.2 and 7.5 ([CLS] token for DeiT, global average pool for Swin).
    """

    def __init__(self, config: SynCoConfig) -> None:
        super().__init__(config)
        self.backbone: Any = build_backbone(config)
        config.hidden_size = self.backbone.num_features
        self.gradient_checkpointing = False
        use_fused_attention(self.backbone, config._attn_implementation != "eager")
        self.post_init()  # type: ignore[no-untyped-call]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Compute token features and the pooled feature.

        Args:
            pixel_values: Normalised images. Shape: (batch, channels, height, width).
            output_attentions: Also return every block's attention, whatever the attention implementation.
                ViT: (batch, heads, tokens, tokens); Swin: (batch * windows, heads, window area, window area).
            output_hidden_states: Also return the embedding and every block's output (Swin: every stage's), before the
                final norm.
            interpolate_pos_encoding: Accept another image size than the config's, rectangles included.
            **kwargs: Ignored, so that pipelines can pass what they like.

        Returns:
            `last_hidden_state` (batch, tokens, hidden_size) after the final norm, [CLS] first for a ViT;
            `pooler_output` (batch, hidden_size): [CLS] for a ViT, mean of the final map for a Swin.

        Raises:
            ValueError: If the image does not fit, or attentions are asked for under gradient checkpointing.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        self._check_input(pixel_values, interpolate_pos_encoding)
        if output_attentions and self.gradient_checkpointing and torch.is_grad_enabled():
            raise ValueError(
                "output_attentions=True does not go with gradient checkpointing, which would replay the forward with "
                "the other attention code: use torch.no_grad() or gradient_checkpointing_disable()."
            )
        pixel_values = pixel_values.to(self.backbone.patch_embed.proj.weight.dtype)
        attentions: list[Tensor] | None = [] if output_attentions else None
        hidden_states: list[Tensor] | None = [] if output_hidden_states else None
        features = forward_features(self.backbone, pixel_values, attentions, hidden_states)
        return BaseModelOutputWithPooling(
            last_hidden_state=_tokens(features),
            pooler_output=self.backbone.forward_head(features, pre_logits=True),
            hidden_states=None if hidden_states is None else tuple(map(_tokens, hidden_states)),
            attentions=None if attentions is None else tuple(attentions),  # type: ignore[arg-type]
        )

    def train(self, mode: bool = True) -> Self:
        """As every module's; a head that somebody else wrote has loaded us, and made all trainable, before it."""
        super().train(mode)
        self.freeze_fixed_parameters()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        embedding: nn.Module = self.backbone.patch_embed
        return embedding

    def _check_input(self, pixel_values: Tensor, interpolate: bool) -> None:
        """Say what is wrong before timm fails deep inside a layer."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            grey = " grey (image.convert('L'))" if self.config.num_channels == 1 else ""
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}, but (batch, {self.config.num_channels}, height, "
                f"width) is needed: pass images{grey} through the image processor."
            )
        height, width = pixel_values.shape[-2:]
        side, patch = self.config.image_size, self.config.patch_size
        if not interpolate and (height, width) != (side, side):
            raise ValueError(
                f"The image is {height}x{width}, but the model was built for {side}x{side}: resize it, or pass "
                "interpolate_pos_encoding=True."
            )
        if height % patch or width % patch:
            raise ValueError(
                f"The image is {height}x{width}, which is no whole number of {patch}x{patch} patches: crop or resize "
                "it to a multiple."
            )


class SynCoForImageClassification(SynCoPreTrainedModel):
    """The backbone with dropout and one linear layer on its pooled feature (paper sections 7.5 and 7.6).

    Args:
        config: Which backbone, and `num_labels`, `id2label`, `classifier_dropout`.
    """

    # Here the classifier is ours: an unexpected one would be a bug.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [  # type: ignore[misc]
        r"^(target|target_projector|projector|predictor|queue_1|queue_2)\."
    ]

    def __init__(self, config: SynCoConfig) -> None:
        super().__init__(config)
        self.synco = SynCoModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """Draw the classifier: small normal weights, zero bias, as linear probes start."""
        super()._init_weights(module)
        if module is self.classifier:
            init.normal_(module.weight, mean=0.0, std=0.01)
            init.zeros_(module.bias)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: Normalised images. Shape: (batch, channels, height, width).
            labels: Class indices (batch,), or multi-hot (batch, num_labels) of any type for
                `problem_type="multi_label_classification"`; then a loss is returned.
            output_attentions: See `SynCoModel.forward`.
            output_hidden_states: See `SynCoModel.forward`.
            interpolate_pos_encoding: See `SynCoModel.forward`.
            **kwargs: Ignored.

        Returns:
            `logits` (batch, num_labels) and, with labels, the scalar `loss`.
        """
        outputs = self.synco(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(outputs.pooler_output))
        if labels is not None and labels.shape == logits.shape:
            labels = labels.to(logits.dtype)  # multi-hot labels are often integers, which the loss refuses
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


# Strides 4, 8, 16 and 32: what heads for pyramids expect.
PYRAMID_LEVELS = 4


class SynCoBackbone(BackboneMixin, SynCoPreTrainedModel):  # type: ignore[misc]
    """Feature maps for detection and segmentation heads, of images of any size.

    `AutoBackbone.from_pretrained("synco-v2-swin-t", out_indices=[1, 2, 3, 4])` loads any checkpoint of ours.
    Maps are counted as `transformers` does: 0 is the embedding, i the i-th block of a ViT or stage of a Swin. The maps
    of a ViT all have the stride of its patches; `pyramid=True` resizes them, in their order, to strides of 4, 8, 16,
    32, … pixels (bilinearly, or by averages), which heads for pyramids expect; a single one, such as the last
    (`out_indices=[12]` of 12 blocks), to each of these four, as ViTDet does (Li et al. 2022,
    https://arxiv.org/abs/2203.16527) by layers that learn. It has no weights of its own.

    A head that builds its backbone from a config (`UperNetConfig(backbone_config=…)`) draws random weights without a
    word: give it this one, `head.backbone = AutoBackbone.from_pretrained(…)`, before it trains.

    Args:
        config: Which backbone, and `out_features` or `out_indices`, `apply_layernorm`, `pyramid`.
    """

    def __init__(self, config: SynCoConfig) -> None:
        config.choose_feature_maps()
        super().__init__(config)
        self.synco = SynCoModel(config)
        depth, width = config.depth, config.embed_dim
        widths = [width] * depth if isinstance(depth, int) else [width * 2**stage for stage in range(len(depth))]
        self.num_features = [width, *widths]
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def channels(self) -> list[int]:
        """Channels of each map that is given."""
        each = [self.out_feature_channels[name] for name in self.out_features]
        return each * PYRAMID_LEVELS if self.config.pyramid and len(each) == 1 else each

    @property
    def _is_swin(self) -> bool:
        return not isinstance(self.config.depth, int)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput:
        """Compute feature maps.

        Args:
            pixel_values: Normalised images, padded inside on the right and below to whole patches. Shape: (batch,
                channels, height, width).
            output_hidden_states: Also return all hidden states, as `SynCoModel.forward` does.
            output_attentions: Also return every block's attention.
            **kwargs: Ignored.

        Returns:
            `feature_maps`: of each chosen stage (batch, its channels, ⌈height / stride⌉, ⌈width / stride⌉).
        """
        patch, (height, width) = self.config.patch_size, pixel_values.shape[-2:]
        padded = F.pad(pixel_values, (0, -width % patch, 0, -height % patch))
        outputs = self.synco(
            padded,
            output_attentions=output_attentions,
            output_hidden_states=True,
            interpolate_pos_encoding=True,
            return_dict=True,
        )
        maps = [self._map(outputs.hidden_states, index, padded) for index in self.out_indices]
        if self.config.pyramid:
            maps = maps * PYRAMID_LEVELS if len(maps) == 1 else maps
            maps = [_resize(each, (height, width), patch, 4 * 2**level) for level, each in enumerate(maps)]
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BackboneOutput(
            feature_maps=tuple(maps),  # type: ignore[arg-type]
            hidden_states=outputs.hidden_states if wanted else None,
            attentions=outputs.attentions,
        )

    def _map(self, hidden_states: tuple[Tensor, ...], index: int, images: Tensor) -> Tensor:
        """One hidden state as a map (batch, channels, rows, columns)."""
        index %= len(hidden_states)
        tokens, network = hidden_states[index], self.synco.backbone
        if self.config.apply_layernorm and (index == len(hidden_states) - 1 or not self._is_swin):
            tokens = network.norm(tokens)
        # A Swin's first stage has the embedding's grid, each further one half of it, rounded up.
        halvings = max(index - 1, 0) if self._is_swin else 0
        rows, columns = (math.ceil(side // self.config.patch_size / 2**halvings) for side in images.shape[-2:])
        tokens = tokens[:, tokens.shape[1] - rows * columns :]  # without [CLS]
        return tokens.transpose(1, 2).unflatten(2, (rows, columns)).contiguous()


def _resize(feature_map: Tensor, image: tuple[int, int], patch: int, stride: int) -> Tensor:
    """A ViT's map in another stride, every place where it was: averaged to a multiple, else bilinearly."""
    size = [math.ceil(side / stride) for side in image]
    if stride % patch == 0:
        return F.avg_pool2d(feature_map, stride // patch, ceil_mode=True)
    # At the right and below, where no whole number of places fits, the last patches go on.
    feature_map = F.pad(feature_map, (0, math.ceil(stride / patch), 0, math.ceil(stride / patch)), mode="replicate")
    resized = F.interpolate(feature_map, scale_factor=patch / stride, mode="bilinear", align_corners=False)
    return resized[..., : size[0], : size[1]].contiguous()


def _tokens(features: Any) -> Any:
    """Swin's maps (batch, height, width, dim) as a sequence (batch, height * width, dim); a ViT's stay as they are."""
    return features.flatten(1, 2) if features.ndim == 4 else features


# `register_for_auto_class` would do this after looking the name up in modules that may be importing us right now.
SynCoConfig._auto_class = "AutoConfig"
SynCoModel._auto_class = "AutoModel"
SynCoForImageClassification._auto_class = "AutoModelForImageClassification"
SynCoBackbone._auto_class = "AutoBackbone"
