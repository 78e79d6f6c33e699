"""Backbones as `transformers` models; the files named `*_synco.py` are copied into every checkpoint.

Names are imported when they are asked for: while `transformers` is still importing itself, only the configuration
can be.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones_synco import BACKBONES, BackboneSpecification
    from .configuration_synco import SynCoConfig
    from .image_processing import image_processor
    from .modeling_synco import SynCoBackbone, SynCoForImageClassification, SynCoModel, SynCoPreTrainedModel

_MODULE_OF = {
    "BACKBONES": "backbones_synco",
    "BackboneSpecification": "backbones_synco",
    "SynCoBackbone": "modeling_synco",
    "SynCoConfig": "configuration_synco",
    "SynCoForImageClassification": "modeling_synco",
    "SynCoModel": "modeling_synco",
    "SynCoPreTrainedModel": "modeling_synco",
    "image_processor": "image_processing",
}

__all__ = [
    "BACKBONES",
    "BackboneSpecification",
    "SynCoBackbone",
    "SynCoConfig",
    "SynCoForImageClassification",
    "SynCoModel",
    "SynCoPreTrainedModel",
    "image_processor",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
