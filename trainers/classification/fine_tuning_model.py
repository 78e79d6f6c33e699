"""The network that fine-tuning starts from: a pretrained backbone, dropout, and a new head for the data set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModelForImageClassification

from synco_hub.evaluation.classification_targets import ClassificationTargets
from synco_hub.hub.loading import TIMM_PREFIX, check_model_name
from synco_hub.hub.short_names import register
from synco_hub.models import SynCoForImageClassification


def check_fine_tunable(name: str) -> None:
    """Refuse names that give no trainable classifier, before data is opened.

    Raises:
        ValueError: If it is a timm name, or no model at all.
    """
    if name.startswith(TIMM_PREFIX):
        raise ValueError(
            f"model {name!r}: fine-tuning saves a classifier of transformers, which wraps timm's models by their Hub "
            f"id; give timm/{name.removeprefix(TIMM_PREFIX)}.<tag> instead"
        )
    check_model_name(name)


def load_processor(name: str) -> Any:
    """The image processor of a model."""
    register()
    return AutoImageProcessor.from_pretrained(name)


def new_classifier(name: str, targets: ClassificationTargets, dropout: float) -> Any:
    """Load a pretrained backbone under a head that is drawn anew.

    Args:
        name: What `AutoModelForImageClassification` loads, or a backbone of ours.
        targets: Their class names become the model's labels.
        dropout: Dropout rate before the head.

    Raises:
        ValueError: If weights of the backbone are missing, or the model has no linear head to put dropout before.
    """
    register()
    names = targets.class_names
    model, info = AutoModelForImageClassification.from_pretrained(
        name,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={label: index for index, label in enumerate(names)},
        problem_type="multi_label_classification" if targets.multi_label else "single_label_classification",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        dtype=torch.float32,
    )
    base = [key for key in info["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")]
    if base:
        raise ValueError(
            f"model {name!r}: {len(base)} weights of its backbone are missing (first {sorted(base)[0]!r}), so it "
            "would start from chance: give a whole checkpoint"
        )
    _draw_head(model)
    if isinstance(model, SynCoForImageClassification):
        model.config.classifier_dropout = dropout
        model.dropout.p = dropout
    else:
        _dropout_before(model, dropout)
    return model


def _draw_head(model: Any) -> None:
    """A head of another task must not survive because it happens to have as many classes."""
    head = getattr(model, "classifier", None)
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"{type(model).__name__} has no linear layer named classifier, before which dropout belongs: fine-tune a "
            "model whose head is one"
        )
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)


def _dropout_before(model: Any, rate: float) -> None:
    """A hook rather than a layer, so that the checkpoint keeps the names that `transformers` knows."""

    def dropped(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(inputs[0], rate, training=head.training), *inputs[1:])

    model.classifier.register_forward_pre_hook(dropped)
