"""A converted network on disk: weights, image processor, report, card; loaded again before it counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel

from synco_hub.hub.card.facts import FACTS_FILE, write_facts
from synco_hub.hub.card.model_card import refresh_card
from synco_hub.hub.classifier import LinearHead, save_classifier
from synco_hub.hub.conversion.attention_heads import HeadsDecision
from synco_hub.hub.conversion.layouts import licence_facts
from synco_hub.hub.conversion.pretraining_state import ARCHITECTURE
from synco_hub.hub.conversion.recognition import Recognised
from synco_hub.hub.conversion.report import ConversionReport
from synco_hub.hub.conversion.source import CheckpointSource
from synco_hub.hub.conversion.timm_names import BackboneTensors
from synco_hub.hub.registration import register
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


@dataclass(frozen=True)
class Converted:
    """A network in this package's form, before it is written.

    Attributes:
        model: It, with its configuration.
        backbones: The tensors of each backbone that is carried over, by the name of the part.
        heads: How many attention heads, and why.
        branch: Which backbone `model` is, and why.
        head: A classifier for it, if there is one.
        state: Every tensor of a whole pretraining state, if that is wanted.
    """

    model: SynCoModel
    backbones: dict[str, BackboneTensors]
    heads: HeadsDecision
    branch: tuple[str, str]
    head: LinearHead | None
    state: dict[str, Tensor] | None


def write_converted(
    directory: Path,
    name: str,
    source: CheckpointSource,
    recognised: Recognised,
    converted: Converted,
    report: ConversionReport,
) -> None:
    """Write a checkpoint directory and load it as a user would.

    Args:
        directory: An empty directory.
        name: What the directory will be called in the end.
        source: Where the tensors come from.
        recognised: Its layout, for the licence.
        converted: What is written.
        report: The account of the conversion.

    Raises:
        RuntimeError: If what was written does not load as it was.
    """
    model: Any = converted.model
    processor = source.processor or image_processor(model.config.image_size)
    if converted.head is not None:
        save_classifier(directory, name, model, processor, converted.head)
    else:
        model.save_pretrained(directory)
        processor.save_pretrained(directory)
    if converted.state is not None:
        _write_state(directory, model.config, converted.state)
    report.save(directory)
    write_facts(directory / FACTS_FILE, licence_facts(recognised.layout))
    refresh_card(directory, name)
    _check_written(directory, model)


def _write_state(directory: Path, config: SynCoConfig, state: dict[str, Tensor]) -> None:
    config.architectures = [ARCHITECTURE]
    config.save_pretrained(directory)
    tensors = {key: tensor.contiguous() for key, tensor in state.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def _check_written(directory: Path, model: SynCoModel) -> None:
    """Load what was written as a user would, and compare every weight."""
    register()
    loaded = AutoModel.from_pretrained(directory)
    ours, theirs = model.state_dict(), loaded.state_dict()
    differ = [key for key in ours if key not in theirs or not torch.equal(ours[key], theirs[key])]
    if differ or loaded.config.num_heads != model.config.num_heads:
        raise RuntimeError(f"{directory} does not load as it was written (first: {differ[:3]}).")
