"""Registers the model type with `transformers`' Auto classes, at the moment those are first imported.

Importing the Auto classes costs seconds (they import torch), so `import synco_hub` waits for the user to need them.
"""

from __future__ import annotations

from types import ModuleType

import wrapt

from synco_hub.hub import aliases


def _register_config(module: ModuleType) -> None:
    from synco_hub.models.configuration_synco import SynCoConfig  # imports torch: only when somebody wants a model

    module.AutoConfig.register(SynCoConfig.model_type, SynCoConfig, exist_ok=True)


def _register_models(module: ModuleType) -> None:
    from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel

    module.AutoModel.register(SynCoConfig, SynCoModel, exist_ok=True)
    module.AutoModelForImageClassification.register(SynCoConfig, SynCoForImageClassification, exist_ok=True)


def _register_image_processor(module: ModuleType) -> None:
    from transformers import ViTImageProcessor

    from synco_hub.models.configuration_synco import SynCoConfig

    # The keyword matters: the first positional class goes to the slower PIL backend.
    module.AutoImageProcessor.register(
        SynCoConfig, image_processor_classes={"torchvision": ViTImageProcessor}, exist_ok=True
    )


_ON_IMPORT = {
    "transformers.utils.hub": aliases.install,
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.image_processing_auto": _register_image_processor,
}


def register() -> None:
    """Arrange the registrations; each runs at once if its module is already imported."""
    for module_name, action in _ON_IMPORT.items():
        wrapt.register_post_import_hook(action, module_name)
