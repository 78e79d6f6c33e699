"""A model and its preprocessing by name, the same for evaluation, attention maps and the Space."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import timm
from timm.data.config import resolve_model_data_config
from transformers import AutoImageProcessor, AutoModel, ViTImageProcessor
from transformers.image_utils import PILImageResampling

from synco_hub.data import EvaluationTransform
from synco_hub.feature_adapter import feature_rule
from synco_hub.hub.registration import register
from synco_hub.models.backbones_synco import suggest
from synco_hub.zoo import list_models

TIMM_PREFIX = "timm:"
# A linear head trained on a foreign backbone: what it was trained on, its classes.
HEAD_FACTS = "linear_head.json"
# Families whose every network can interpolate its positions, for images of other sizes than its own.
_ANY_SIZE_MODULES = ("timm.models.vision_transformer", "timm.models.deit")
_RESAMPLING = {
    "bilinear": PILImageResampling.BILINEAR,
    "bicubic": PILImageResampling.BICUBIC,
    "nearest": PILImageResampling.NEAREST,
}


def load_model(name: str) -> tuple[Any, Any]:
    """Load a frozen model and its image processor.

    Args:
        name: A zoo or installed short name, a checkpoint directory, any Hub id that `AutoModel` loads,
            `timm:<name>` for timm's pretrained weights, or what linear probing wrote for a foreign backbone, which
            gives that backbone.

    Returns:
        The model in evaluation mode, and its image processor.

    Raises:
        ValueError: If there is no such checkpoint, with the nearest names.
        OSError: If it is a short name of the zoo that is not on this computer; names the ways to get it.
    """
    name = backbone_name(name)
    if name.startswith(TIMM_PREFIX):
        return _timm_model(name.removeprefix(TIMM_PREFIX))
    register()
    check_model_name(name)
    model = AutoModel.from_pretrained(name).eval()
    return model, AutoImageProcessor.from_pretrained(name)


def backbone_name(name: str) -> str:
    """What a model is loaded by: the backbone of a directory that holds no more than a linear head for it.

    Args:
        name: See :func:`load_model`.
    """
    facts = Path(name) / HEAD_FACTS
    return str(json.loads(facts.read_text(encoding="utf-8"))["model"]) if facts.is_file() else name


def check_model_name(name: str) -> None:
    """Refuse what can be no model of `transformers` before anything is loaded.

    Raises:
        ValueError: If it is neither a directory with a model, nor a short name, nor of the form of a Hub id.
    """
    known = [row.name for row in list_models()]
    if name not in known and "/" not in name and not Path(name).is_dir():
        raise ValueError(
            f"model {name!r} is neither a directory, nor installed, nor in the zoo: `synco-hub list` shows what there "
            f"is; a Hub id has the form organisation/name, timm's models timm:name.{suggest(name, known)}"
        )
    start = name.split("/", 1)[0]
    if (
        not Path(name).is_dir()
        and ("/" in name)
        and (start in ("", ".", "..") or start[0] == "~" or Path(start).is_dir())
    ):
        raise ValueError(f"model {name!r} looks like a path, and there is no such directory: give one that is there.")
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"model {name!r} is a folder without config.json: give a checkpoint directory.")


def model_facts(model: Any, processor: Any) -> str:
    """One line on what is measured: which token, which pooling, which norm, and at which image size."""
    transform = EvaluationTransform.from_image_processor(processor)
    return f"feature: {feature_rule(model).description}; images: {transform!r}"


def _timm_model(name: str) -> tuple[Any, Any]:
    """Timm's pretrained network without head, with the preprocessing that timm documents for it."""
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}.{suggest(name, timm.list_models())}")
    # At its own size a network with interpolated positions computes the same bits.
    any_size = timm.model_entrypoint(name).__module__ in _ANY_SIZE_MODULES
    further: dict[str, Any] = {"dynamic_img_size": True} if any_size else {}
    model = timm.create_model(name, pretrained=True, num_classes=0, **further).eval()
    config = resolve_model_data_config(model)
    side = config["input_size"][-1]
    processor = ViTImageProcessor(
        size={"shortest_edge": math.floor(side / config["crop_pct"])},
        resample=_RESAMPLING.get(config["interpolation"], PILImageResampling.BICUBIC),
        do_center_crop=True,
        crop_size={"height": side, "width": side},
        image_mean=list(config["mean"]),
        image_std=list(config["std"]),
        do_convert_rgb=True,
    )
    return model, processor
