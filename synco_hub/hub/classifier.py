"""A trained classifier on disk: a `SynCoForImageClassification`, or a foreign backbone's linear head and its name.

`load_classifier` reads either, and anything else that `AutoModelForImageClassification` loads.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub.atomic_write import atomic_write
from synco_hub.feature_adapter import feature_network, feature_rule, image_features
from synco_hub.hub.loading import HEAD_FACTS, TIMM_PREFIX, backbone_name, check_model_name, load_model
from synco_hub.hub.registration import register
from synco_hub.models import SynCoForImageClassification, SynCoModel

HEAD_FILE = "linear_head.safetensors"


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
    """A frozen foreign backbone with a linear head; called like a classifier of `transformers`.

    Args:
        backbone: Any model that `synco_hub.feature_adapter` knows.
        head: What was trained on its features.
    """

    def __init__(self, backbone: nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.rule = feature_rule(backbone)
        self.classifier = nn.Linear(head.weight.shape[1], head.weight.shape[0])
        self.classifier.load_state_dict({"weight": head.weight, "bias": head.bias})
        self.class_names = tuple(head.class_names)
        self.multi_label = head.multi_label

    @property
    def base_model(self) -> nn.Module:
        """The network without the head, under the name that models of `transformers` have for it."""
        return feature_network(self.backbone)

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values: Shape: (batch, channels, height, width).

        Returns:
            ``logits`` (batch, num_classes).
        """
        features = image_features(feature_network(self.backbone), pixel_values, self.rule)
        return ImageClassifierOutput(logits=self.classifier(features))  # type: ignore[arg-type]


def save_classifier(directory: Path, model_name: str, model: nn.Module, processor: Any, head: LinearHead) -> None:
    """Write a trained head with its backbone, or with its backbone's name if the backbone is not ours.

    Args:
        directory: Where to write.
        model_name: What the backbone was loaded by.
        model: The frozen backbone.
        processor: Its image processor.
        head: What was trained.
    """
    directory.mkdir(parents=True, exist_ok=True)
    network = feature_network(model)
    processor.save_pretrained(directory)
    if isinstance(network, SynCoModel):
        _synco_classifier(network, head).save_pretrained(directory)
        return
    with atomic_write(directory / HEAD_FILE) as temporary:
        save_file({"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}, temporary)
    name = backbone_name(model_name)
    facts = {
        # A path that counts from the working directory of today would be another one, or none, from elsewhere.
        "model": str(Path(name).resolve()) if Path(name).is_dir() else name,
        "feature": feature_rule(model).description,
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
    """Load a classifier in evaluation mode.

    Args:
        name: What linear probing or fine-tuning wrote, a directory, or a Hub id that
            `AutoModelForImageClassification` loads.

    Returns:
        The classifier, its image processor, and its class names in label order.

    Raises:
        ValueError: If there is no such model, or it is a backbone without a trained head.
    """
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
    check_model_name(name)
    model, info = AutoModelForImageClassification.from_pretrained(name, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"model {name!r} has no trained classifier ({len(missing)} weights are missing, first {missing[:2]}): "
            "train one with `synco-hub linear-probe` or `synco-hub fine-tune`, and give its output directory"
        )
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    return model.eval().to(torch.float32), AutoImageProcessor.from_pretrained(name), names


def load_with_head(name: str) -> tuple[Any, Any]:
    """Load a model with its trained classifier where the checkpoint has one, and without where it has none.

    For looking at a model: what moves the score of a class can only be seen through the head.

    Args:
        name: What :func:`load_classifier` or :func:`synco_hub.hub.loading.load_model` takes.

    Returns:
        The model in evaluation mode, and its image processor.

    Raises:
        ValueError: If there is no such checkpoint, with the nearest names.
        OSError: If it is a short name of the zoo that is not on this computer; names the ways to get it.
    """
    if (Path(name) / HEAD_FACTS).is_file():
        return load_classifier(name)[:2]
    if name.startswith(TIMM_PREFIX):
        return load_model(name)
    register()
    check_model_name(name)
    architectures = AutoConfig.from_pretrained(name).architectures or []
    if any(architecture.endswith("ForImageClassification") for architecture in architectures):
        model, info = AutoModelForImageClassification.from_pretrained(name, output_loading_info=True)
        # A head that is only named by the configuration would be random.
        if not info["missing_keys"]:
            return model.eval(), AutoImageProcessor.from_pretrained(name)
    return load_model(name)
