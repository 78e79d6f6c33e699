"""`SynCoModel` and `SynCoForImageClassification`: timm's ViT and Swin as `transformers` models.

This file travels to the Hub with every checkpoint, so it imports nothing of ours but its siblings. Three traps of
wrapping timm are handled here: `post_init` must not draw timm's weights anew, `from_pretrained` builds on the meta
device and leaves non-persistent buffers (Swin's window indices and masks) uninitialised, and it makes every parameter
trainable again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .backbones_synco import build_backbone
from .configuration_synco import SynCoConfig
from .position_embedding_synco import find_grid_side, fit_position_embedding, is_sincos_position_embedding
from .recording_synco import forward_features, use_fused_attention

logger = logging.get_logger(__name__)

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

            _fit_position_embeddings(model, info, load_at)
        if info["mismatched_keys"] and not ignore_mismatched_sizes:
            keys = sorted(entry[0] for entry in info["mismatched_keys"])
            raise RuntimeError(
                f"The shapes of {len(keys)} weights mismatch those of the config (first: {keys[:3]}): give the config "
                "that they were made for (a Swin takes the image sizes at which its windows stay as large), or draw a "
                "classifier anew by ignore_mismatched_sizes=True."
            )
        _refuse_other_backbone(info)
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

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding."""
        embedding: nn.Module = self.backbone.patch_embed
        return embedding

    def _check_input(self, pixel_values: Tensor, interpolate: bool) -> None:
        """Say what is wrong before timm fails deep inside a layer."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}, but (batch, {self.config.num_channels}, height, "
                "width) is needed: pass images through the image processor."
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


def _fit_position_embeddings(model: Any, info: dict[str, Any], load_at: Callable[[int], Any]) -> None:
    """Bring position embeddings of another image size to the config's; what was done is no mismatch any more."""
    shapes = {entry[0]: tuple(entry[1]) for entry in info["mismatched_keys"]}
    own: Any = None
    for name, module in model.named_modules():
        key, patches = (
            f"{name}.backbone.{part}".removeprefix(".") for part in ("pos_embed", "patch_embed.proj.weight")
        )
        if not isinstance(module, SynCoModel) or key not in shapes or patches in shapes:
            continue
        embedding, grid = module.backbone.pos_embed, module.backbone.patch_embed.grid_size
        prefix = embedding.shape[1] - grid[0] * grid[1]
        side = find_grid_side(shapes[key][1], prefix)
        if side is None or shapes[key][-1] != embedding.shape[-1] or embedding.is_meta:
            continue
        size = side * module.config.patch_size
        own = load_at(size) if own is None else own
        before = own.get_parameter(key).detach().to(embedding)
        # One that was interpolated before stays on the scale that it was trained on.
        fixed = module.config.position_embedding == "sincos" and is_sincos_position_embedding(before, prefix)
        fitted = fit_position_embedding(before, grid, prefix, fixed)
        with torch.no_grad():
            embedding.copy_(fitted)
        info["mismatched_keys"] = [entry for entry in info["mismatched_keys"] if entry[0] != key]
        how = "computed" if fixed else "interpolated"
        logger.warning(
            f"{key} was {how} for images of {module.config.image_size} pixels: the checkpoint's are {size}."
        )


def _refuse_other_backbone(info: dict[str, Any]) -> None:
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


def _tokens(features: Any) -> Any:
    """Swin's maps (batch, height, width, dim) as a sequence (batch, height * width, dim); a ViT's stay as they are."""
    return features.flatten(1, 2) if features.ndim == 4 else features


# `register_for_auto_class` would do this after looking the name up in modules that may be importing us right now.
SynCoConfig._auto_class = "AutoConfig"
SynCoModel._auto_class = "AutoModel"
SynCoForImageClassification._auto_class = "AutoModelForImageClassification"
