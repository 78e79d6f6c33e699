"""synco-hub: SynCo-v2, MoBY and BYOL vision transformers in the Hugging Face ecosystem.

Importing this package teaches `transformers` the model type `synco` and the zoo's short names, and stays light:
torch is imported only when a model class is asked for, or a model is evaluated.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from synco_hub.hub.short_names import register
from synco_hub.version import __version__
from synco_hub.zoo import list_models

if TYPE_CHECKING:
    from synco_hub.embedding import embed
    from synco_hub.embedding_tables import Embeddings
    from synco_hub.models import SynCoBackbone, SynCoConfig, SynCoForImageClassification, SynCoModel
    from synco_hub.protocols import evaluate
    from synco_hub.settings import DatasetChoice

_LAZY = {
    "DatasetChoice": "synco_hub.settings",
    "Embeddings": "synco_hub.embedding_tables",
    "SynCoBackbone": "synco_hub.models",
    "SynCoConfig": "synco_hub.models",
    "SynCoForImageClassification": "synco_hub.models",
    "SynCoModel": "synco_hub.models",
    "embed": "synco_hub.embedding",
    "evaluate": "synco_hub.protocols",
}

__all__ = [
    "DatasetChoice",
    "Embeddings",
    "SynCoBackbone",
    "SynCoConfig",
    "SynCoForImageClassification",
    "SynCoModel",
    "__version__",
    "embed",
    "evaluate",
    "list_models",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names that are there only when they are asked for are listed too, for completion in a notebook."""
    return sorted({*globals(), *__all__})


register()
