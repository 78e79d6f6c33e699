"""What is exported: a checkpoint of this package taken apart, and the yardstick that every export is held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from synco_hub.data.evaluation_transform import make_view
from synco_hub.hub.model_names import ADAPTER_FILE, TIMM_PREFIX, check_model_name
from synco_hub.hub.preprocessing import make_pair_pictures, save_processor
from synco_hub.hub.short_names import register
from synco_hub.models import SynCoConfig, SynCoForImageClassification

# What a `SynCoConfig` is built from; the rest of a config.json follows, or belongs to one file of weights.
CONFIG_FIELDS = (
    "backbone",
    "image_size",
    "patch_size",
    "num_channels",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "window_size",
    "position_embedding",
    "layer_norm_eps",
    "classifier_dropout",
    "pretraining",
)


SEED = 20240521


@dataclass(frozen=True)
class Exported:
    """A checkpoint that is exported.

    Attributes:
        name: What it was loaded by.
        model: The `SynCoModel`, or the classifier, in evaluation mode and float32.
        processor: Its image processor.
    """

    name: str
    model: Any
    processor: Any

    @property
    def config(self) -> Any:
        """Its `SynCoConfig`."""
        return self.model.config

    @property
    def backbone(self) -> nn.Module:
        """The timm network inside."""
        base = self.model.synco if self.is_classifier else self.model
        network: nn.Module = base.backbone
        return network

    @property
    def is_classifier(self) -> bool:
        """Whether there is a trained head."""
        return isinstance(self.model, SynCoForImageClassification)

    @property
    def head(self) -> dict[str, Tensor] | None:
        """`weight` and `bias` of the classifier, if there is one."""
        return dict(self.model.classifier.state_dict()) if self.is_classifier else None

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Tensor:
        """The feature (batch, dim), or a classifier's logits (batch, classes)."""
        outputs = self.model(pixel_values=images)
        return outputs.logits if self.is_classifier else outputs.pooler_output


def open_checkpoint(name: str) -> Exported:
    """Load what is to be exported."""
    register()
    if name.startswith(TIMM_PREFIX):
        raise ValueError(
            f"{name} is a model of timm, not one of this package: convert it first, `synco-hub convert {name} "
            "--output DIR`, and export that."
        )
    if (Path(name) / ADAPTER_FILE).is_file():
        raise ValueError(
            f"{name} holds an adapter, not a whole network: merge it first, "
            "`PeftModel.from_pretrained(AutoModel.from_pretrained(BASE), ADAPTER).merge_and_unload()` of peft, save "
            "that and export it."
        )
    check_model_name(name)
    config = AutoConfig.from_pretrained(name)
    if not isinstance(config, SynCoConfig):
        raise ValueError(
            f"{name} holds a model of the type {config.model_type!r}, not one of this package: convert it first."
        )
    is_classifier = "SynCoForImageClassification" in (config.architectures or ())
    loader: Any = AutoModelForImageClassification if is_classifier else AutoModel
    # Unfused attention: the same numbers up to rounding, and every exporter understands it.
    model = loader.from_pretrained(name, dtype=torch.float32, attn_implementation="eager")
    return Exported(name, model.eval(), AutoImageProcessor.from_pretrained(name))


def make_plain_config(config: Any) -> dict[str, Any]:
    """A `SynCoConfig` as the arguments it is built from."""
    values = {name: getattr(config, name) for name in CONFIG_FIELDS if getattr(config, name) is not None}
    labels = {str(index): name for index, name in config.id2label.items()}
    return {**values, "id2label": labels} if labels else values


def layer_norm_epsilons(network: nn.Module) -> dict[str, float]:
    """Name of every LayerNorm to its epsilon."""
    return {name: module.eps for name, module in network.named_modules() if isinstance(module, nn.LayerNorm)}


def make_fixed_input(num_channels: int, height: int, width: int, batch: int = 2) -> Tensor:
    """The images that checksums and comparisons are made on, the same everywhere.

    Returns:
        Standard normal numbers of a seeded generator on the CPU. Shape: (batch, channels, height, width).
    """
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(batch, num_channels, height, width, generator=generator)


@torch.no_grad()
def compare_pairs(
    exported: Exported, outputs: Callable[[Tensor], Tensor], view: Callable[[Image.Image], Tensor]
) -> dict[str, float]:
    """Send drawn pictures through the checkpoint and its processor, and through the export and its own.

    Returns:
        `pixels` and `outputs`, the largest absolute differences; empty where the processor makes views of another
        size than the network's, for which stock models have no positions.
    """
    config = exported.config
    pairs = make_pair_pictures(exported.processor, config.image_size)
    if any(ours.shape[1:] != (config.num_channels, config.image_size, config.image_size) for _, ours in pairs):
        return {}
    views = [(ours, view(picture)[None]) for picture, ours in pairs]
    differences = [(exported.outputs(ours) - outputs(theirs)).abs().max() for ours, theirs in views]
    return {
        "pixels": max(float((ours - theirs).abs().max()) for ours, theirs in views),
        "outputs": max(map(float, differences)),
    }


def export_processor(exported: Exported, directory: Path) -> Callable[[Image.Image], Tensor]:
    """Write the image processor beside the export; gives what the one that was written makes of an image."""
    return partial(make_view, save_processor(exported.processor, directory))


@torch.no_grad()
def compared(exported: Exported, outputs: Callable[[Tensor], Tensor], batch: int = 2) -> tuple[float, float]:
    """Compare somebody's outputs with ours on the fixed input.

    Args:
        exported: The checkpoint.
        outputs: Images (batch, channels, height, width) to features or logits.
        batch: How many images.
    """
    config = exported.config
    images = make_fixed_input(config.num_channels, config.image_size, config.image_size, batch)
    ours, theirs = exported.outputs(images), outputs(images)
    if ours.shape != theirs.shape:
        raise ValueError(f"The export gives {tuple(theirs.shape)} where the checkpoint gives {tuple(ours.shape)}.")
    return float((ours - theirs).abs().max()), float(ours.abs().max())
