"""`SynCoModel` and `SynCoForImageClassification`: timm's ViT and Swin as `transformers` models.

This file travels to the Hub with every checkpoint, so it imports nothing of ours but its siblings. Three traps of
wrapping timm are handled here: `post_init` must not draw timm's weights anew, `from_pretrained` builds on the meta
device and leaves non-persistent buffers (Swin's window indices and masks) uninitialised, and it makes every parameter
trainable again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .backbones_synco import build_backbone, is_vision_transformer
from .configuration_synco import SynCoConfig

AUTO_MAP = {
    "AutoConfig": "configuration_synco.SynCoConfig",
    "AutoModel": "modeling_synco.SynCoModel",
    "AutoModelForImageClassification": "modeling_synco.SynCoForImageClassification",
}


class SynCoPreTrainedModel(PreTrainedModel):
    """What every model of the family shares: loading, freezing, attention implementation, checkpointing, saving."""

    config_class = SynCoConfig
    base_model_prefix = "synco"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["Block", "SwinTransformerBlock"]
    # The rest of a pretraining checkpoint is no surprise when only the backbone is asked for.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        r"^(target|target_projector|projector|predictor|queue_1|queue_2|classifier)\."
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Leave timm's weights alone; refill the buffers that no checkpoint holds."""
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load like any `transformers` model, but never with a random backbone, and freeze again what is fixed.

        Raises:
            ValueError: If the checkpoint lacks weights of the backbone, naming the first ones.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        missing = sorted(key for key in info["missing_keys"] if "backbone." in key)
        if missing:
            raise ValueError(
                f"The checkpoint lacks {len(missing)} weights of the backbone (first: {missing[:3]}), which would "
                "stay random: another architecture or key layout; convert it first (`synco-hub convert`)."
            )
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
                _use_fused_attention(module.backbone, self.config._attn_implementation == "sdpa")

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        for module in self.modules():
            if isinstance(module, SynCoModel):
                module.gradient_checkpointing = enable
                module.backbone.set_grad_checkpointing(enable)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save weights, config and the model code, so that `trust_remote_code=True` loads without this package."""
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            backbone_model = next(m for m in self.modules() if isinstance(m, SynCoModel))
            custom_object_save(backbone_model, save_directory)

    def get_input_embeddings(self) -> None:
        """An image model has no token embedding table."""
        return None


class SynCoModel(SynCoPreTrainedModel):
    """A headless ViT or Swin whose pooled output is the frozen feature of the paper's protocols.

    Args:
        config: Which backbone, see `SynCoConfig`.

    Source: paper sections 7.2 and 7.5 ([CLS] token for DeiT, global average pool for Swin).
    """

    def __init__(self, config: SynCoConfig) -> None:
        super().__init__(config)
        self.backbone: Any = build_backbone(config)
        self.gradient_checkpointing = False
        config.hidden_size = int(self.backbone.num_features)
        _use_fused_attention(self.backbone, config._attn_implementation != "eager")
        self.post_init()

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
        pixel_values = pixel_values.to(self.backbone.patch_embed.proj.weight.dtype)

        if not (output_attentions or output_hidden_states or interpolate_pos_encoding):
            attentions = hidden_states = None
            features = self.backbone.forward_features(pixel_values)
        else:
            with _recording(self, output_attentions, output_hidden_states, interpolate_pos_encoding) as recorded:
                features = self.backbone.forward_features(pixel_values)
            attentions = tuple(recorded.attentions) if output_attentions else None
            hidden_states = tuple(_tokens(h) for h in recorded.hidden_states) if output_hidden_states else None
        return BaseModelOutputWithPooling(
            last_hidden_state=_tokens(features),
            pooler_output=self.backbone.forward_head(features, pre_logits=True),
            hidden_states=hidden_states,
            attentions=attentions,
        )

    def _check_input(self, pixel_values: Tensor, interpolate: bool) -> None:
        """Say what is wrong before timm fails deep inside a layer."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}, but (batch, {self.config.num_channels}, height, "
                "width) is needed: pass images through the image processor."
            )
        height, width = pixel_values.shape[-2:]
        native_height, native_width = self.backbone.patch_embed.img_size
        if not interpolate and (height, width) != (native_height, native_width):
            raise ValueError(
                f"The image is {height}x{width}, but the model was built for {native_height}x{native_width}: resize "
                "it, or pass interpolate_pos_encoding=True."
            )
        patch_height, patch_width = self.backbone.patch_embed.patch_size
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"The image is {height}x{width}, which is no whole number of {patch_height}x{patch_width} patches: "
                "crop or resize it to a multiple."
            )


class SynCoForImageClassification(SynCoPreTrainedModel):
    """The backbone with dropout and one linear layer on its pooled feature (paper sections 7.5 and 7.6).

    Args:
        config: Which backbone, and `num_labels`, `id2label`, `classifier_dropout`.
    """

    # Here the classifier is ours: an unexpected one would be a bug.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        r"^(target|target_projector|projector|predictor|queue_1|queue_2)\."
    ]

    def __init__(self, config: SynCoConfig) -> None:
        super().__init__(config)
        self.synco = SynCoModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(self.synco.backbone.num_features, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
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
            labels: Class indices (batch,), or multi-hot (batch, num_labels) for
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
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def _tokens(features: Tensor) -> Tensor:
    """Swin's maps (batch, height, width, dim) as a sequence (batch, height * width, dim); a ViT's stay as they are."""
    return features.flatten(1, 2) if features.ndim == 4 else features


def _attention_modules(backbone: nn.Module) -> list[Any]:
    """Every block's attention, in order; each has `fused_attn` or is eager always, and applies `attn_drop` last."""
    return [m for m in backbone.modules() if hasattr(m, "attn_drop") and hasattr(m, "qkv")]


def _use_fused_attention(backbone: nn.Module, fused: bool) -> None:
    """Set timm's per-module switch for good: toggling it for each forward breaks gradient checkpointing."""
    for module in _attention_modules(backbone):
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused


class _Recorded:
    """Attentions and hidden states of one forward, in the order of the blocks."""

    def __init__(self) -> None:
        self.attentions: list[Tensor] = []
        self.hidden_states: list[Tensor] = []


@contextmanager
def _recording(model: SynCoModel, attentions: bool, hidden_states: bool, any_size: bool) -> Iterator[_Recorded]:
    """Within this context one forward is recorded, attention runs unfused if it is asked for, any size is accepted.

    Raises:
        ValueError: If attentions are asked for while checkpointing replays the forward outside this context.
    """
    if attentions and model.training and model.gradient_checkpointing:
        raise ValueError(
            "output_attentions=True does not work while training with gradient checkpointing: use eval()."
        )
    backbone, recorded = model.backbone, _Recorded()
    modules = _attention_modules(backbone) if attentions else []
    fused = [getattr(module, "fused_attn", None) for module in modules]
    handles = [m.attn_drop.register_forward_pre_hook(_record_input(recorded.attentions)) for m in modules]
    if hidden_states:
        blocks = list(backbone.blocks if is_vision_transformer(backbone) else backbone.layers)
        handles.append(blocks[0].register_forward_pre_hook(_record_input(recorded.hidden_states)))
        handles += [block.register_forward_hook(_record_output(recorded.hidden_states)) for block in blocks]
    try:
        for module, was_fused in zip(modules, fused, strict=True):
            if was_fused is not None:
                module.fused_attn = False
        with _any_image_size(backbone, any_size):
            yield recorded
    finally:
        for handle in handles:
            handle.remove()
        for module, was_fused in zip(modules, fused, strict=True):
            if was_fused is not None:
                module.fused_attn = was_fused


@contextmanager
def _any_image_size(backbone: nn.Module, wanted: bool) -> Iterator[None]:
    """Let a Swin pad and mask for whatever grid comes; a ViT is built to interpolate by itself."""
    strict: list[tuple[Any, str, Any]] = []
    if wanted and not is_vision_transformer(backbone):
        strict = [
            (m, name, getattr(m, name))
            for m in backbone.modules()
            for name in ("strict_img_size",)
            if hasattr(m, name)
        ]
        strict += [(m, "dynamic_mask", m.dynamic_mask) for m in backbone.modules() if hasattr(m, "dynamic_mask")]
    try:
        for module, name, _ in strict:
            setattr(module, name, name == "dynamic_mask")
        yield
    finally:
        for module, name, value in strict:
            setattr(module, name, value)


def _record_input(store: list[Tensor]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        store.append(inputs[0])

    return hook


def _record_output(store: list[Tensor]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        store.append(output)

    return hook


SynCoConfig.register_for_auto_class()
SynCoModel.register_for_auto_class("AutoModel")
SynCoForImageClassification.register_for_auto_class("AutoModelForImageClassification")
