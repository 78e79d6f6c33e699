"""A model or a classifier and its preprocessing by name, the same for evaluation, attention maps and the Space.

A trained classifier on disk is a `SynCoForImageClassification`, or a foreign backbone's linear head and its name.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    TimmWrapperImageProcessor,
)
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import logging

from synco_hub.atomic_write import atomic_write, usual_modes
from synco_hub.data import EvaluationTransform
from synco_hub.errors import DoesNotApplyError, suggest
from synco_hub.feature_pooling import compute_image_features, find_feature_network, find_feature_rule
from synco_hub.hub.model_names import (
    ADAPTER_FILE,
    HEAD_FACTS,
    TIMM_PREFIX,
    check_model_name,
    find_adapted_model,
    find_backbone_name,
    find_timm_repository,
    read_adapted_model,
    read_head_facts,
)
from synco_hub.hub.run_checkpoints import find_newest_state
from synco_hub.hub.short_names import register
from synco_hub.models import SynCoForImageClassification, SynCoModel
from synco_hub.weights_identity import hash_weights

# Families whose every network can interpolate its positions, for images of other sizes than its own.
_ANY_SIZE_MODULES = ("timm.models.vision_transformer", "timm.models.deit")
HEAD_FILE = "linear_head.safetensors"
# ViT-MAE hides patches at random, and transformers leaves the pooling of Data2Vec out.
_FAMILY_ARGUMENTS: dict[str, dict[str, Any]] = {
    "vit_mae": {"mask_ratio": 0.0},
    "data2vec-vision": {"add_pooling_layer": True},
}


def load_model(name: str, revision: str | None = None, random_seed: int | None = None) -> tuple[Any, Any]:
    """Load a frozen model in single precision, and its image processor; with a seed its weights are drawn anew."""
    if facts := read_head_facts(name):
        name, revision = facts["model"], facts.get("revision")
    name = find_newest_state(name)
    with torch.random.fork_rng(devices=[], enabled=random_seed is not None):
        if random_seed is not None:
            torch.manual_seed(random_seed)
        if name.startswith(TIMM_PREFIX):
            return _timm_model(name.removeprefix(TIMM_PREFIX), revision, pretrained=random_seed is None)
        register()
        check_model_name(name)
        further = find_family_arguments(name, revision)
        if random_seed is None:
            with _explained_briefly(name, "choose another, or the whole model that it is a part of"):
                model, info = AutoModel.from_pretrained(
                    name, revision=revision, dtype=torch.float32, output_loading_info=True, **further
                )
            _remove_random_pooler(model, info["missing_keys"])
        else:
            config = _load_config(name, revision)
            for key in set(further) & set(vars(config)):
                setattr(config, key, further.pop(key))
            model = AutoModel.from_config(config, dtype=torch.float32, **further)
    return model.eval(), load_processor(name, revision)


@contextmanager
def _explained_briefly(name: str, remedy: str) -> Iterator[None]:
    """Say which family an Auto class does not know; transformers lists the hundreds that it does."""
    try:
        yield
    except ValueError as error:
        if found := re.match(r"Unrecognized configuration class <class '.*\.(\w+)'> .*?: (\w+)\.", str(error)):
            raise DoesNotApplyError(
                f"model {name!r}: {found[2]} has no network for its {found[1]}: {remedy}"
            ) from None
        raise


@contextmanager
def without_load_report() -> Iterator[None]:
    """Keep transformers' table of missing and unused weights back, where the caller itself says what of it matters."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _remove_random_pooler(model: Any, missing: Collection[str]) -> None:
    """Drop a layer that the checkpoint does not have and the feature does not use.

    Drawn anew at every load, it would make each of them another network.
    """
    only_pooler = bool(missing) and all(name.startswith("pooler.") for name in missing)
    if only_pooler and find_feature_rule(model).pooling != "pooler_output":
        model.pooler = None


def load_processor(name: str, revision: str | None = None) -> Any:
    """The image processor of a model; an adapter without one has that of the model that it adapts."""
    register()
    adapted = find_adapted_model(name)
    try:
        return AutoImageProcessor.from_pretrained(adapted or name, revision=None if adapted else revision)
    except OSError:
        if adapted or not Path(name).is_dir() or (Path(name) / "preprocessor_config.json").exists():
            raise
        raise ValueError(
            f"{name!r} has no image processor (preprocessor_config.json), so nothing says how to resize "
            f"and normalise: save one there (`ViTImageProcessor(…).save_pretrained({name!r})`), or `synco-hub "
            f"convert {name} --output NEW`, which takes ImageNet's or that of --preprocessing."
        ) from None


def _load_config(name: str, revision: str | None = None) -> Any:
    adapter = Path(name) / ADAPTER_FILE
    if adapter.is_file() and not (Path(name) / "config.json").is_file():
        return AutoConfig.from_pretrained(read_adapted_model(adapter))
    try:
        # Said here, so that nobody is asked whether a stranger's code may run.
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except ValueError as error:
        if found := re.search(r"model type `(.+?)` but Transformers does not recognize", str(error)):
            raise DoesNotApplyError(
                f"model {name!r} is of the family {found[1]!r}, which transformers {transformers.__version__} does "
                "not know: choose another, or, where that is newer, upgrade transformers."
            ) from None
        if "trust_remote_code" not in str(error):
            raise
        raise DoesNotApplyError(
            f"model {name!r} brings code of its own, which no command runs: choose a model of transformers or timm, "
            "or read that code, load the network in Python with trust_remote_code=True and measure it there, "
            "`synco_hub.evaluation.evaluate_knn(EvaluatedModel(model, processor, name), DatasetChoice(…))`."
        ) from None


def find_family_arguments(name: str, revision: str | None = None) -> dict[str, Any]:
    """What a family has to be told so that its feature is one of the image alone, at any size, or is there at all."""
    config = _load_config(name, revision)
    if config.model_type == "timm_wrapper":
        at_any_size: dict[str, Any] = {"dynamic_img_size": True} if _takes_any_size(config.architecture) else {}
        return {"model_args": {**at_any_size, **_timm_arguments(config)}}
    return dict(_FAMILY_ARGUMENTS.get(config.model_type, {}))


def _timm_arguments(config: Any) -> dict[str, Any]:
    """What timm builds a network with, but for the number of classes: transformers gives that itself.

    A directory that newer versions of timm write has it there as well.
    """
    return {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"}


def _load_whole_classifier(name: str, revision: str | None) -> tuple[Any, list[str]]:
    """A classifier of transformers in evaluation mode and single precision, and which of its weights are missing."""
    config = _load_config(name, revision)
    further = {"model_args": _timm_arguments(config)} if config.model_type == "timm_wrapper" else {}
    advice = "train one with `synco-hub linear-probe`, and give its output directory"
    with _explained_briefly(name, advice), without_load_report():
        model, info = AutoModelForImageClassification.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True, **further
        )
    return model.eval().to(torch.float32), sorted(info["missing_keys"])


def describe_model_facts(model: Any, processor: Any) -> str:
    """One line on what is measured: which token, which pooling, which norm, and at which image size."""
    transform = EvaluationTransform.from_image_processor(processor)
    return f"feature: {find_feature_rule(model).description}; images: {transform!r}"


def _takes_any_size(architecture: str) -> bool:
    return timm.is_model(architecture) and timm.model_entrypoint(architecture).__module__ in _ANY_SIZE_MODULES


def _timm_model(name: str, revision: str | None = None, pretrained: bool = True) -> tuple[Any, Any]:
    """Timm's pretrained network without head, with the preprocessing that timm documents for it."""
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}.{suggest(name, timm.list_models())}")
    # At its own size a network with interpolated positions computes the same bits.
    further: dict[str, Any] = {"dynamic_img_size": True} if _takes_any_size(name) else {}
    if revision is not None:
        further["pretrained_cfg_overlay"] = {"hf_hub_id": f"{find_timm_repository(name)}@{revision}"}
    model = timm.create_model(name, pretrained=pretrained, num_classes=0, **further).eval()
    return model, TimmWrapperImageProcessor(resolve_model_data_config(model), architecture=name)


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


def save_classifier(
    directory: Path,
    model_name: str,
    model: nn.Module,
    processor: Any,
    head: LinearHead,
    revision: str | None = None,
) -> str:
    """Write a trained head with its backbone, or with its backbone's name if the backbone is not ours.

    Gives the hash of the classifier's weights.
    """
    directory.mkdir(parents=True, exist_ok=True)
    network = find_feature_network(model)
    with usual_modes(directory):
        processor.save_pretrained(directory)
        if isinstance(network, SynCoModel) and not getattr(network, "_hf_peft_config_loaded", False):
            classifier = _synco_classifier(network, head)
            classifier.save_pretrained(directory)
            return hash_weights(classifier)
    with atomic_write(directory / HEAD_FILE) as temporary:
        save_file({"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}, temporary)
    name = find_backbone_name(model_name)
    facts = {
        # A path that counts from the working directory of today would be another one, or none, from elsewhere.
        "model": str(Path(name).resolve()) if Path(name).is_dir() else name,
        "revision": revision,
        "backbone_weights": hash_weights(network),
        "feature": find_feature_rule(model).description,
        "class_names": list(head.class_names),
        "multi_label": head.multi_label,
    }
    with atomic_write(directory / HEAD_FACTS) as temporary:
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return hash_weights(LinearClassifier(model, head))


def _synco_classifier(network: SynCoModel, head: LinearHead) -> Any:
    config: Any = copy.deepcopy(network.config)
    config.id2label = dict(enumerate(head.class_names))
    config.label2id = {name: index for index, name in enumerate(head.class_names)}
    config.problem_type = "multi_label_classification" if head.multi_label else "single_label_classification"
    classifier: Any = SynCoForImageClassification(config)
    classifier.synco.load_state_dict(network.state_dict())
    classifier.classifier.load_state_dict({"weight": head.weight, "bias": head.bias})
    return classifier.eval()


def load_classifier(name: str, revision: str | None = None) -> tuple[Any, Any, tuple[str, ...]]:
    """Load a classifier in evaluation mode and single precision."""
    register()
    if facts := read_head_facts(name):
        tensors = load_file(Path(name) / HEAD_FILE)
        backbone, processor = load_model(name)
        trained_on = facts.get("backbone_weights")
        if trained_on not in (None, hash_weights(find_feature_network(backbone))):
            raise ValueError(
                f"{name}: the head was trained on other weights than {facts['model']} has now: train it again with "
                "`synco-hub linear-probe`, or put the earlier weights back"
            )
        head = LinearHead(tensors["weight"], tensors["bias"], facts["class_names"], facts["multi_label"])
        if head.weight.shape[0] != len(head.class_names):
            raise ValueError(
                f"{name}: the head has {head.weight.shape[0]} outputs and {len(head.class_names)} class names: its "
                "two files do not belong together; train it again with `synco-hub linear-probe`"
            )
        return LinearClassifier(backbone, head).eval(), processor, tuple(head.class_names)
    name = find_backbone_name(name)
    if name.startswith(TIMM_PREFIX):
        raise DoesNotApplyError(
            f"model {name!r} has no trained classifier here: train one with `synco-hub linear-probe`, and give its "
            "output directory"
        )
    check_model_name(name)
    model, missing = _load_whole_classifier(name, revision)
    if missing:
        raise DoesNotApplyError(
            f"model {name!r} has no trained classifier ({len(missing)} weights are missing, first {missing[:2]}): "
            "train one with `synco-hub linear-probe` or `synco-hub fine-tune`, and give its output directory"
        )
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    return model, load_processor(name, revision), names


def load_with_head(name: str, revision: str | None = None) -> tuple[Any, Any]:
    """Load a model with its trained classifier where the checkpoint has one, and without where it has none.

    For looking at a model: what moves the score of a class can only be seen through the head.
    """
    if (Path(name) / HEAD_FACTS).is_file():
        return load_classifier(name)[:2]
    name = find_backbone_name(name)
    if name.startswith(TIMM_PREFIX):
        return load_model(name, revision)
    register()
    check_model_name(name)
    architectures = _load_config(name, revision).architectures or []
    if any(architecture.endswith("ForImageClassification") for architecture in architectures):
        model, missing = _load_whole_classifier(name, revision)
        # A head that is only named by the configuration would be random.
        if not missing:
            return model, load_processor(name, revision)
    return load_model(name, revision)
