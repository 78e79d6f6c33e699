"""What is trained: linear heads side by side, or a pretrained network under a new head; and their loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageClassification

from synco_hub.evaluation.classification import ClassificationTargets
from synco_hub.hub.model_names import TIMM_PREFIX, check_model_name
from synco_hub.hub.short_names import register
from synco_hub.models import SynCoForImageClassification

# Targets with this value belong to images that could not be read; they do not count.
IGNORED = -100


def classification_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """Mean loss over the images that count, or their cells where an image may have several classes; 0 if none does.

    Targets are class indices (batch,), or multi-hot (batch, num_classes), of which negative cells do not count. Label
    smoothing is for class indices only: binary cross-entropy has no classes to spread over.

    Source: paper sections 7.5 and 7.6.
    """
    if targets.ndim == 1:
        total = F.cross_entropy(
            logits.float(), targets, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
        )
        return total / (targets != IGNORED).sum().clamp(min=1)
    counts = (targets >= 0).float()
    cells = F.binary_cross_entropy_with_logits(logits.float(), targets.clamp(min=0), reduction="none")
    return (cells * counts).sum() / counts.sum().clamp(min=1)


def mask_targets(targets: Tensor, unreadable: Tensor) -> Tensor:
    """Targets in which unreadable images do not count."""
    rows = unreadable if targets.ndim == 1 else unreadable[:, None]
    return torch.where(rows, torch.full_like(targets, IGNORED), targets)


class LinearHeads(nn.Module):
    """Heads that start equal and share nothing: each trains as if it were alone.

    The losses are added, so a head's gradient is that of its own loss; one matrix product serves all heads.
    """

    def __init__(self, dim: int, num_classes: int, num_heads: int, label_smoothing: float = 0.1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        weight = torch.randn(num_classes, dim) * 0.01
        self.weights = nn.ParameterList([nn.Parameter(weight.clone()) for _ in range(num_heads)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(num_classes)) for _ in range(num_heads)])

    def forward(self, features: Tensor, targets: Tensor | None = None) -> dict[str, Tensor]:
        """``logits`` (num_heads, batch, num_classes) and, with targets, ``loss``, the sum over the heads."""
        together = F.linear(features, torch.cat(list(self.weights)), torch.cat(list(self.biases)))
        logits = together.unflatten(1, (len(self.weights), self.num_classes)).movedim(1, 0)
        if targets is None:
            return {"logits": logits}
        losses: Sequence[Tensor] = [classification_loss(head, targets, self.label_smoothing) for head in logits]
        return {"logits": logits, "loss": torch.stack(list(losses)).sum()}

    def head(self, index: int) -> tuple[Tensor, Tensor]:
        """Weight (num_classes, dim) and bias (num_classes,) of one head, detached, on the CPU."""
        return self.weights[index].detach().cpu().clone(), self.biases[index].detach().cpu().clone()


def check_fine_tunable(name: str) -> None:
    """Refuse names that give no trainable classifier, before data is opened."""
    if name.startswith(TIMM_PREFIX):
        raise ValueError(
            f"model {name!r}: fine-tuning saves a classifier of transformers, which wraps timm's models by their Hub "
            f"id; give timm/{name.removeprefix(TIMM_PREFIX)}.<tag> instead"
        )
    check_model_name(name)


def make_classifier(
    name: str,
    targets: ClassificationTargets,
    dropout: float,
    revision: str | None = None,
    image_size: int | None = None,
) -> Any:
    """Load a pretrained backbone under a head that is drawn anew, where wanted for another image size."""
    register()
    names = targets.class_names
    # Convolutional networks name no size, and take any.
    sized = image_size is not None and hasattr(AutoConfig.from_pretrained(name, revision=revision), "image_size")
    model, info = AutoModelForImageClassification.from_pretrained(
        name,
        revision=revision,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={label: index for index, label in enumerate(names)},
        problem_type="multi_label_classification" if targets.multi_label else "single_label_classification",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        dtype=torch.float32,
        **({"image_size": image_size} if sized else {}),
    )
    head = _find_head(model)
    head_names = tuple(f"{name}." for name, module in model.named_modules() if module is head)
    missing = [key for key in info["missing_keys"] if not key.startswith(head_names)]
    base = [key for key in missing if key.startswith(f"{model.base_model_prefix}.")]
    if base:
        raise ValueError(
            f"model {name!r}: {len(base)} weights of its backbone are missing (first {sorted(base)[0]!r}), so it "
            "would start from chance: give a complete checkpoint"
        )
    if shaped := sorted(entry[0] for entry in info["mismatched_keys"] if not entry[0].startswith(head_names)):
        at = "its config.json" if image_size is None else f"--image-size {image_size}"
        raise ValueError(
            f"model {name!r}: {len(shaped)} weights have another shape than {at} asks for (first {shaped[0]!r}), so "
            "they would start from chance: leave --image-size out, or convert a stock ViT for that size with "
            "`synco-hub convert --image-size`"
        )
    # A head of another task must not survive because it happens to have as many classes.
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    if isinstance(model, SynCoForImageClassification):
        model.config.classifier_dropout = dropout
        model.dropout.p = dropout
    else:
        _add_dropout(head, dropout)
    return model


def _find_head(model: Any) -> nn.Linear:
    """The linear layer that gives the logits: the last one of `classifier`, or timm's where transformers wraps it."""
    found = model.timm_model.get_classifier() if hasattr(model, "timm_model") else getattr(model, "classifier", None)
    head = found[-1] if isinstance(found, nn.Sequential) else found
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ValueError(
            f"{type(model).__name__} has no linear layer with a bias named classifier, before which dropout belongs: "
            "fine-tune a model whose head is one, or train a linear probe on it"
        )
    return head


def _add_dropout(head: nn.Linear, rate: float) -> None:
    """A hook rather than a layer, so that the checkpoint keeps the names that `transformers` knows."""

    def dropped(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(inputs[0], rate, training=head.training), *inputs[1:])

    head.register_forward_pre_hook(dropped)
