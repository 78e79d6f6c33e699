"""Backbones as `transformers` models; these files are copied into every checkpoint."""

from .backbones_synco import BACKBONES, BackboneSpecification
from .configuration_synco import SynCoConfig
from .image_processing import image_processor
from .modeling_synco import SynCoForImageClassification, SynCoModel, SynCoPreTrainedModel

__all__ = [
    "BACKBONES",
    "BackboneSpecification",
    "SynCoConfig",
    "SynCoForImageClassification",
    "SynCoModel",
    "SynCoPreTrainedModel",
    "image_processor",
]
