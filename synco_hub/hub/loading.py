"""A model or a classifier and its preprocessing by name, the same for evaluation, attention maps and the Space.

A trained classifier on disk is a `SynCoForImageClassification`, or a foreign backbone's linear head and its name.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, ViTImageProcessor
from transformers.image_utils import PILImageResampling
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import IMAGE_PROCESSOR_NAME
from transformers.utils.import_utils import is_peft_available

from synco_hub.atomic_write import atomic_write, usual_modes
from synco_hub.data import EvaluationTransform
from synco_hub.errors import DoesNotApplyError, suggest
from synco_hub.feature_pooling import compute_image_features, find_feature_network, find_feature_rule
from synco_hub.hub.short_names import register
from synco_hub.models import SynCoForImageClassification, SynCoModel
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
HEAD_FILE = "linear_head.safetensors"
ADAPTER_FILE = "adapter_config.json"
# ViT-MAE hides patches at random, and transformers leaves the pooling of Data2Vec out.
_FAMILY_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vit_mae": {"mask_ratio": 0.0},
    "data2vec-vision": {"add_pooling_layer": True},
}


def load_model(name: str) -> tuple[Any, Any]:
    """Load a frozen model and its image processor."""
    name = find_backbone_name(name)
    if name.startswith(TIMM_PREFIX):
        return _timm_model(name.removeprefix(TIMM_PREFIX))
    register()
    check_model_name(name)
    model = AutoModel.from_pretrained(name, **find_family_arguments(name)).eval()
    return model, load_processor(name)


def load_processor(name: str) -> Any:
    """The image processor of a model; an adapter without one has that of the model that it adapts."""
    register()
    return AutoImageProcessor.from_pretrained(find_adapted_model(name) or name)


def find_adapted_model(name: str) -> str | None:
    """What the adapter of peft in a directory without a model or image processor adapts, None for anything else."""
    directory = Path(name)
    file = directory / ADAPTER_FILE
    if not file.is_file() or (directory / "config.json").is_file() or (directory / IMAGE_PROCESSOR_NAME).is_file():
        return None
    return _read_adapted_model(file)


def _read_adapted_model(file: Path) -> str:
    return str(json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") or "")


def _load_config(name: str) -> Any:
    adapter = Path(name) / ADAPTER_FILE
    alone = adapter.is_file() and not (Path(name) / "config.json").is_file()
    return AutoConfig.from_pretrained(_read_adapted_model(adapter) if alone else name)


def find_family_arguments(name: str) -> dict[str, Any]:
    """What a family has to be told so that its feature is one of the image alone, at any size, or is there at all."""
    config = _load_config(name)
    if config.model_type == "timm_wrapper" and _takes_any_size(config.architecture):
        return {"model_args": {"dynamic_img_size": True, **(config.model_args or {})}}
    return dict(_FAMILY_ARGUMENTS.get(config.model_type, {}))


def find_backbone_name(name: str) -> str:
    """What a model is loaded by: the backbone of a directory that holds no more than a linear head for it."""
    facts = Path(name) / HEAD_FACTS
    return str(json.loads(facts.read_text(encoding="utf-8"))["model"]) if facts.is_file() else name


def check_model_name(name: str) -> None:
    """Refuse what can be no model of `transformers` before anything is loaded."""
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
    if not Path(name).is_dir() or (Path(name) / "config.json").is_file():
        return
    if not (Path(name) / ADAPTER_FILE).is_file():
        raise ValueError(f"model {name!r} is a folder without config.json: give a checkpoint directory.")
    adapted = _read_adapted_model(Path(name) / ADAPTER_FILE)
    if not is_peft_available():
        raise ValueError(
            f"model {name!r} is an adapter of {adapted!r}, which peft loads: pip install peft, or save the model with "
            "its adapter merged."
        )
    try:
        check_model_name(adapted)
    except ValueError as error:
        raise ValueError(f"model {name!r} is an adapter of another: {error}") from None


def describe_model_facts(model: Any, processor: Any) -> str:
    """One line on what is measured: which token, which pooling, which norm, and at which image size."""
    transform = EvaluationTransform.from_image_processor(processor)
    return f"feature: {find_feature_rule(model).description}; images: {transform!r}"


def _takes_any_size(architecture: str) -> bool:
    return timm.is_model(architecture) and timm.model_entrypoint(architecture).__module__ in _ANY_SIZE_MODULES


def _timm_model(name: str) -> tuple[Any, Any]:
    """Timm's pretrained network without head, with the preprocessing that timm documents for it."""
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}.{suggest(name, timm.list_models())}")
    # At its own size a network with interpolated positions computes the same bits.
    further: dict[str, Any] = {"dynamic_img_size": True} if _takes_any_size(name) else {}
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


@dataclass(frozen=True)
class LinearHead:
    """One trained linear layer.

    Attributes:
        weight: Shape: (num_classes, dim).
        bias: Shape: (num_classes,).
        class_names: In label order.
        multi_label: Whether an image can have several classes.
    """

    weight: Tensor
    bias: Tensor
    class_names: Sequence[str]
    multi_label: bool = False


class LinearClassifier(nn.Module):
    """A frozen foreign backbone with a linear head; called like a classifier of `transformers`."""

    def __init__(self, backbone: nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.rule = find_feature_rule(backbone)
        self.classifier = nn.Linear(head.weight.shape[1], head.weight.shape[0])
        self.classifier.load_state_dict({"weight": head.weight, "bias": head.bias})
        self.class_names = tuple(head.class_names)
        self.multi_label = head.multi_label

    @property
    def base_model(self) -> nn.Module:
        """The network without the head, under the name that models of `transformers` have for it."""
        return find_feature_network(self.backbone)

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: Shape: (batch, channels, height, width).

        Returns:
            ``logits`` (batch, num_classes).
        """
        features = compute_image_features(find_feature_network(self.backbone), pixel_values, self.rule)
        return ImageClassifierOutput(logits=self.classifier(features))  # type: ignore[arg-type]


def save_classifier(directory: Path, model_name: str, model: nn.Module, processor: Any, head: LinearHead) -> None:
    """Write a trained head with its backbone, or with its backbone's name if the backbone is not ours."""
    directory.mkdir(parents=True, exist_ok=True)
    network = find_feature_network(model)
    with usual_modes(directory):
        processor.save_pretrained(directory)
        if isinstance(network, SynCoModel) and not getattr(network, "_hf_peft_config_loaded", False):
            _synco_classifier(network, head).save_pretrained(directory)
            return
    with atomic_write(directory / HEAD_FILE) as temporary:
        save_file({"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}, temporary)
    name = find_backbone_name(model_name)
    facts = {
        # A path that counts from the working directory of today would be another one, or none, from elsewhere.
        "model": str(Path(name).resolve()) if Path(name).is_dir() else name,
        "feature": find_feature_rule(model).description,
        "class_names": list(head.class_names),
        "multi_label": head.multi_label,
    }
    with atomic_write(directory / HEAD_FACTS) as temporary:
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _synco_classifier(network: SynCoModel, head: LinearHead) -> Any:
    config: Any = copy.deepcopy(network.config)
    config.id2label = dict(enumerate(head.class_names))
    config.label2id = {name: index for index, name in enumerate(head.class_names)}
    config.problem_type = "multi_label_classification" if head.multi_label else "single_label_classification"
    classifier: Any = SynCoForImageClassification(config)
    classifier.synco.load_state_dict(network.state_dict())
    classifier.classifier.load_state_dict({"weight": head.weight, "bias": head.bias})
    return classifier.eval()


def load_classifier(name: str) -> tuple[Any, Any, tuple[str, ...]]:
    """Load a classifier in evaluation mode."""
    register()
    directory = Path(name)
    if (directory / HEAD_FACTS).is_file():
        facts = json.loads((directory / HEAD_FACTS).read_text(encoding="utf-8"))
        tensors = load_file(directory / HEAD_FILE)
        backbone, processor = load_model(facts["model"])
        head = LinearHead(tensors["weight"], tensors["bias"], facts["class_names"], facts["multi_label"])
        if head.weight.shape[0] != len(head.class_names):
            raise ValueError(
                f"{name}: the head has {head.weight.shape[0]} outputs and {len(head.class_names)} class names: its "
                "two files do not belong together; train it again with `synco-hub linear-probe`"
            )
        return LinearClassifier(backbone, head).eval(), processor, tuple(head.class_names)
    if name.startswith(TIMM_PREFIX):
        raise DoesNotApplyError(
            f"model {name!r} has no trained classifier here: train one with `synco-hub linear-probe`, and give its "
            "output directory"
        )
    check_model_name(name)
    model, info = AutoModelForImageClassification.from_pretrained(name, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise DoesNotApplyError(
            f"model {name!r} has no trained classifier ({len(missing)} weights are missing, first {missing[:2]}): "
            "train one with `synco-hub linear-probe` or `synco-hub fine-tune`, and give its output directory"
        )
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    return model.eval().to(torch.float32), load_processor(name), names


def load_with_head(name: str) -> tuple[Any, Any]:
    """Load a model with its trained classifier where the checkpoint has one, and without where it has none.

    For looking at a model: what moves the score of a class can only be seen through the head.
    """
    if (Path(name) / HEAD_FACTS).is_file():
        return load_classifier(name)[:2]
    if name.startswith(TIMM_PREFIX):
        return load_model(name)
    register()
    check_model_name(name)
    architectures = _load_config(name).architectures or []
    if any(architecture.endswith("ForImageClassification") for architecture in architectures):
        model, info = AutoModelForImageClassification.from_pretrained(name, output_loading_info=True)
        # A head that is only named by the configuration would be random.
        if not info["missing_keys"]:
            return model.eval(), load_processor(name)
    return load_model(name)
