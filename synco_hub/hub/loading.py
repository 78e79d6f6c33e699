"""A model or a classifier and its preprocessing by name, the same for evaluation, attention maps and the Space.

A trained classifier on disk is a `SynCoForImageClassification`, or a foreign backbone's linear head and its name.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import RevisionNotFoundError
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
from transformers.utils import hub as transformers_files

from synco_hub.atomic_write import atomic_write, usual_modes
from synco_hub.data import EvaluationTransform
from synco_hub.errors import DoesNotApplyError, suggest
from synco_hub.feature_pooling import compute_image_features, find_feature_network, find_feature_rule
from synco_hub.hub.run_checkpoints import find_newest_state
from synco_hub.hub.short_names import register, resolve
from synco_hub.models import SynCoForImageClassification, SynCoModel
from synco_hub.weights_identity import hash_weights
from synco_hub.zoo import list_models, read_origin

TIMM_PREFIX = "timm:"
# A linear head trained on a foreign backbone: what it was trained on, its classes.
HEAD_FACTS = "linear_head.json"
# Families whose every network can interpolate its positions, for images of other sizes than its own.
_ANY_SIZE_MODULES = ("timm.models.vision_transformer", "timm.models.deit")
HEAD_FILE = "linear_head.safetensors"


def load_model(name: str, revision: str | None = None, random_seed: int | None = None) -> tuple[Any, Any]:
    """Load a frozen model in single precision, and its image processor; with a seed its weights are drawn anew."""
    if facts := _read_head_facts(name):
        name, revision = facts["model"], facts.get("revision")
    name = find_newest_state(name)
    with torch.random.fork_rng(devices=[], enabled=random_seed is not None):
        if random_seed is not None:
            torch.manual_seed(random_seed)
        if name.startswith(TIMM_PREFIX):
            return _timm_model(name.removeprefix(TIMM_PREFIX), revision, pretrained=random_seed is None)
        register()
        check_model_name(name)
        if random_seed is None:
            model, info = AutoModel.from_pretrained(
                name, revision=revision, dtype=torch.float32, output_loading_info=True
            )
            _remove_random_pooler(model, info["missing_keys"])
        else:
            model = AutoModel.from_config(AutoConfig.from_pretrained(name, revision=revision), dtype=torch.float32)
    return model.eval(), AutoImageProcessor.from_pretrained(name, revision=revision)


def _remove_random_pooler(model: Any, missing: Collection[str]) -> None:
    """Drop a layer that the checkpoint does not have and the feature does not use.

    Drawn anew at every load, it would make each of them another network.
    """
    only_pooler = bool(missing) and all(name.startswith("pooler.") for name in missing)
    if only_pooler and find_feature_rule(model).pooling != "pooler_output":
        model.pooler = None


def find_backbone_name(name: str) -> str:
    """What a model is loaded by: the backbone of a directory that holds no more than a linear head for it.

    Of a training that is not at its end the newest complete checkpoint.
    """
    return str(_read_head_facts(name).get("model") or find_newest_state(name))


def _read_head_facts(name: str) -> dict[str, Any]:
    """What a directory that holds no more than a linear head says about it; empty for everything else."""
    file = Path(name) / HEAD_FACTS
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


@dataclass(frozen=True)
class Revision:
    """Which commit a name stands for.

    Attributes:
        commit: What to load it at; None where there is nothing to choose.
        words: What results say: the commit, or why there is none.
    """

    commit: str | None
    words: str


def find_revision(name: str, revision: str | None = None) -> Revision:
    """The commit on the Hub that a model's name means now, or means at a branch, tag or commit.

    Offline it is that of the cached files.
    """
    if facts := _read_head_facts(name):
        _refuse_revision(name, revision, "it holds a linear head for a model that it names")
        return find_revision(facts["model"], facts.get("revision"))
    if name.startswith(TIMM_PREFIX):
        return _find_timm_revision(name.removeprefix(TIMM_PREFIX), revision)
    register()
    place = resolve(name)
    if Path(place).is_dir():
        installed = read_origin(Path(place)) if place != name else {}
        commit = installed.get("revision")
        if revision is not None and revision != commit:
            remedy = f"`synco-hub pull {name} --revision {revision}` installs another" if installed else "leave it out"
            _refuse_revision(name, revision, f"it is a directory on this computer, which has none; {remedy}")
        return Revision(None, commit or "none: a local directory")
    if "/" not in place:
        return Revision(revision, "unknown: this name is no repository")  # loading says what it should be
    check_model_name(place)
    try:
        file = transformers_files.cached_file(place, "config.json", revision=revision)
    except OSError:
        if revision is not None:
            raise
        file = None  # loading says what is missing
    return _revision_of(file, revision)


def _find_timm_revision(name: str, revision: str | None) -> Revision:
    repository = _find_timm_repository(name)
    if repository is None:
        _refuse_revision(f"{TIMM_PREFIX}{name}", revision, "its weights lie on no Hub")
        return Revision(None, "none: its weights lie on no Hub")
    found: Any = None
    try:
        found = hf_hub_download(repository, "config.json", revision=revision)
    except RevisionNotFoundError:
        raise ValueError(
            f"--model-revision {revision}: {repository} has no such revision; give a branch, a tag or a commit."
        ) from None
    except OSError:
        # Without a network: what lies here decides.
        for file in ("model.safetensors", "pytorch_model.bin"):
            found = found or try_to_load_from_cache(repository, file, revision=revision)
    return _revision_of(found if isinstance(found, str) else None, revision)


def _find_timm_repository(name: str) -> str | None:
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return getattr(config, "hf_hub_id", None) or None


def _refuse_revision(name: str, revision: str | None, why: str) -> None:
    if revision is not None:
        raise ValueError(f"--model-revision {revision} of {name!r}: {why}.")


def _revision_of(file: str | None, revision: str | None) -> Revision:
    """The commit is a folder of the cache that its files lie in."""
    found = re.search(r"/snapshots/([0-9a-f]{40})/", Path(file).as_posix()) if file else None
    if found is None:
        return Revision(revision, f"unknown: the Hub named no commit for {revision or 'the newest revision'}")
    return Revision(found.group(1), found.group(1))


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
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"model {name!r} is a folder without config.json: give a checkpoint directory.")


def describe_model_facts(model: Any, processor: Any) -> str:
    """One line on what is measured: which token, which pooling, which norm, and at which image size."""
    transform = EvaluationTransform.from_image_processor(processor)
    return f"feature: {find_feature_rule(model).description}; images: {transform!r}"


def _timm_model(name: str, revision: str | None = None, pretrained: bool = True) -> tuple[Any, Any]:
    """Timm's pretrained network without head, with the preprocessing that timm documents for it."""
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}.{suggest(name, timm.list_models())}")
    # At its own size a network with interpolated positions computes the same bits.
    any_size = timm.model_entrypoint(name).__module__ in _ANY_SIZE_MODULES
    further: dict[str, Any] = {"dynamic_img_size": True} if any_size else {}
    if revision is not None:
        further["pretrained_cfg_overlay"] = {"hf_hub_id": f"{_find_timm_repository(name)}@{revision}"}
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
        if isinstance(network, SynCoModel):
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
    if facts := _read_head_facts(name):
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
    model, info = AutoModelForImageClassification.from_pretrained(
        name, revision=revision, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise DoesNotApplyError(
            f"model {name!r} has no trained classifier ({len(missing)} weights are missing, first {missing[:2]}): "
            "train one with `synco-hub linear-probe` or `synco-hub fine-tune`, and give its output directory"
        )
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    return model.eval(), AutoImageProcessor.from_pretrained(name, revision=revision), names


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
    architectures = AutoConfig.from_pretrained(name, revision=revision).architectures or []
    if any(architecture.endswith("ForImageClassification") for architecture in architectures):
        model, info = AutoModelForImageClassification.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True
        )
        # A head that is only named by the configuration would be random.
        if not info["missing_keys"]:
            return model.eval(), AutoImageProcessor.from_pretrained(name, revision=revision)
    return load_model(name, revision)
