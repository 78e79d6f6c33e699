"""A model and its preprocessing by name, the same for evaluation, attention maps and the Space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoModel

from synco_hub.hub.registration import register
from synco_hub.models.backbones_synco import suggest
from synco_hub.zoo import list_models


def load_model(name: str) -> tuple[Any, Any]:
    """Load a frozen model and its image processor.

    Args:
        name: A zoo or installed short name, a checkpoint directory, or any Hub id that `AutoModel` loads.

    Returns:
        The model in evaluation mode, and its image processor.

    Raises:
        ValueError: If there is no such checkpoint, with the nearest names.
        OSError: If it is a short name of the zoo that is not on this computer; names the ways to get it.
    """
    register()
    known = [row.name for row in list_models()]
    if name not in known and "/" not in name and not Path(name).is_dir():
        raise ValueError(
            f"model {name!r} is neither a directory, nor installed, nor in the zoo: `synco-hub list` shows what there "
            f"is; a Hub id has the form organisation/name.{suggest(name, known)}"
        )
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"model {name!r} is a folder without config.json: give a checkpoint directory.")
    model = AutoModel.from_pretrained(name).eval()
    return model, AutoImageProcessor.from_pretrained(name)
