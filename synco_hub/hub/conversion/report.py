"""What a conversion leaves: the weights, loaded again before they count, and an account that can be checked later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel

from synco_hub.atomic_write import atomic_write
from synco_hub.data.evaluation_transform import make_view
from synco_hub.errors import escape
from synco_hub.feature_pooling import (
    compute_image_features,
    find_expected_image_size,
    find_feature_network,
    find_feature_rule,
)
from synco_hub.hub.card.facts import FACTS_FILE, write_facts
from synco_hub.hub.card.model_card import CONVERSION_REPORT, refresh_card
from synco_hub.hub.conversion.configuration import HeadsDecision
from synco_hub.hub.conversion.layouts import describe_licence
from synco_hub.hub.conversion.recognition import Recognised
from synco_hub.hub.conversion.source import CheckpointSource
from synco_hub.hub.conversion.tensor_names import BackboneTensors
from synco_hub.hub.conversion.weights import PRETRAINING_ARCHITECTURE
from synco_hub.hub.export.network import SEED, make_fixed_input
from synco_hub.hub.loading import LinearHead, save_classifier, without_load_report
from synco_hub.hub.preprocessing import (
    REMEDY,
    Preprocessing,
    describe_steps,
    make_pair_pictures,
    open_processor,
    save_processor,
)
from synco_hub.hub.short_names import register
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.results import library_versions
from synco_hub.weights_identity import hash_saved_weights

SCHEMA_VERSION = 1
_SHOWN_VALUES = 8
_TOLERANCE = 1e-4
# Side in pixels up to which features are computed here; what anybody pretrained on has less than half of it.
MAX_IMAGE_SIZE = 2048


@dataclass(frozen=True)
class ConversionReport:
    """The account of one conversion.

    Attributes:
        source: `name`, `kind` and `sha256` of what was converted.
        layout: `name`, the `reason` it was taken for that, and whose code it is.
        branch: `name` of the backbone and the `reason` for it.
        backbone: The numbers that define the network.
        heads: `num_heads`, the `reason`, and what the file's own configuration has `recorded`.
        mapped: Part to number of tensors carried over.
        renamed: What was done to names and shapes, in words.
        dropped: What is not carried over: `what`, `reason`, number of `tensors`, and their `keys`.
        tensors_in_file: Every tensor of the file; the sum of mapped and dropped.
        features: Checksum on a fixed input, see `compute_feature_checksum`.
        licence: Identifier and the situation in words.
        leftover: Tensors of no known part; like the next two empty, for a conversion with any writes nothing.
        missing: Tensors of the network that the file does not have.
        wrong_shaped: Tensors of another shape than the network's.
        clean: Whether every tensor was accounted for.
        preprocessing: How images are prepared: `source`, `steps`, `processor`, and where there was a pair before,
            `pixels` and `features`: by how much drawn pictures differ through it and through the new one.
        weights: Hash of what was written; other weights in its place make the account void.
        versions: Library versions.
    """

    source: Mapping[str, Any]
    layout: Mapping[str, Any]
    branch: Mapping[str, Any]
    backbone: Mapping[str, Any]
    heads: Mapping[str, Any]
    mapped: Mapping[str, int]
    renamed: list[str]
    dropped: list[dict[str, Any]]
    tensors_in_file: int
    features: Mapping[str, Any]
    licence: Mapping[str, Any]
    leftover: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    wrong_shaped: tuple[str, ...] = ()
    clean: bool = True
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    versions: Mapping[str, str] = field(
        default_factory=lambda: {**library_versions(), "safetensors": safetensors.__version__}
    )

    def save(self, directory: Path) -> None:
        """Write it as `conversion_report.json`."""
        values = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        with atomic_write(directory / CONVERSION_REPORT) as temporary:
            temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def lines(self) -> list[str]:
        """The account for people, a line a fact."""
        recorded = self.heads.get("recorded")
        told = f"; the file's own config says {recorded}" if recorded is not None else ""
        lost = [row for row in self.dropped if row["tensors"]]
        first = ", ".join(f"{value:.4f}" for value in self.features["first_values"][:4])
        return [
            f"layout: {self.layout['name']} ({self.layout['reason']})",
            f"branch: {self.branch['name']} ({self.branch['reason']})",
            "backbone: " + ", ".join(f"{key} {value}" for key, value in self.backbone.items() if value is not None),
            f"heads: {self.heads['num_heads']} ({self.heads['reason']}{told})",
            "carried over: " + ", ".join(f"{count} tensors of {part}" for part, count in self.mapped.items()),
            *(f"renamed: {fact}" for fact in self.renamed),
            *(f"dropped: {escape(row['what'])}, {row['tensors']} tensors ({row['reason']})" for row in lost),
            f"accounted for: all {self.tensors_in_file} tensors of the file",
            f"source sha256: {self.source['sha256']}",
            *self._preprocessing_lines(),
            f"features of the fixed input: mean {self.features['mean']:.6f}, std {self.features['std']:.6f}, "
            f"first {first}, sha256 {self.features['sha256'][:16]}…",
        ]

    def _preprocessing_lines(self) -> list[str]:
        if not self.preprocessing:
            return []
        said = [f"preprocessing: {self.preprocessing['steps']} ({self.preprocessing['source']})"]
        if "note" in self.preprocessing:
            said.append(f"note: {self.preprocessing['note']}")
        if "features" in self.preprocessing:
            said.append(
                f"drawn pictures through the pair that was and through this one: pixels differ by up to "
                f"{self.preprocessing['pixels']:.1e}, features by up to {self.preprocessing['features']:.1e}"
            )
        return said


@torch.no_grad()
def compute_feature_checksum(model: Any) -> dict[str, Any]:
    """Features of the fixed input, in numbers that can be compared across machines and one that cannot be faked.

    Returns:
        `seed` and `shape` of the input, `mean`, `std` and `first_values` of the features (compare within 1e-4 across
        machines), and the `sha256` of their float32 bytes (equal only on the same software and processor).
    """
    config = model.config
    images = make_fixed_input(config.num_channels, config.image_size, config.image_size)
    features = model(pixel_values=images).pooler_output.float()
    return {
        "seed": SEED,
        "input_shape": list(images.shape),
        "mean": float(features.mean()),
        "std": float(features.std()),
        "first_values": [float(value) for value in features[0, :_SHOWN_VALUES]],
        "sha256": hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest(),
    }


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
    preprocessing: Preprocessing,
) -> ConversionReport:
    """Write a checkpoint directory and load it as a user would; gives the report with what was seen then."""
    model: Any = converted.model
    if converted.head is not None:
        save_classifier(directory, name, model, preprocessing.processor, converted.head)
    else:
        model.save_pretrained(directory)
    save_processor(preprocessing.processor, directory)
    if converted.state is not None:
        _write_state(directory, model.config, converted.state)
    loaded = _check_written(directory, model)
    pair = _check_pair(directory, loaded, source, preprocessing)
    report = replace(report, preprocessing=pair, weights=hash_saved_weights(directory)[0])
    report.save(directory)
    write_facts(directory / FACTS_FILE, describe_licence(recognised.layout))
    refresh_card(directory, name)
    return report


def _write_state(directory: Path, config: SynCoConfig, state: dict[str, Tensor]) -> None:
    config.architectures = [PRETRAINING_ARCHITECTURE]
    config.save_pretrained(directory)
    tensors = {key: tensor.contiguous() for key, tensor in state.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def _check_written(directory: Path, model: SynCoModel) -> Any:
    """Load what was written as a user would, and compare every weight."""
    register()
    loaded = AutoModel.from_pretrained(directory)
    ours, theirs = model.state_dict(), loaded.state_dict()
    differ = [key for key in ours if key not in theirs or not torch.equal(ours[key], theirs[key])]
    if differ or loaded.config.num_heads != model.config.num_heads:
        raise RuntimeError(f"{directory} does not load as it was written (first: {differ[:3]}).")
    return loaded.eval()


@torch.no_grad()
def _check_pair(directory: Path, model: Any, source: CheckpointSource, preprocessing: Preprocessing) -> dict[str, Any]:
    """Send drawn pictures through what was written, and through the pair that it was made from."""
    processor, config = open_processor(directory), model.config
    pairs = make_pair_pictures(processor, config.image_size)
    if (channels := pairs[0][1].shape[1]) != config.num_channels:
        raise ValueError(
            f"the image processor ({preprocessing.source}) gives {channels} channels, the network reads "
            f"{config.num_channels}: {REMEDY}. Nothing was written."
        )
    said = json.loads(json.dumps(processor.to_dict(), default=str))
    facts: dict[str, Any] = {"source": preprocessing.source, "steps": describe_steps(processor), "processor": said}
    if (side := tuple(pairs[0][1].shape[-2:])) != (config.image_size, config.image_size):
        return {**facts, "note": f"views of {side[0]} x {side[1]} for a network of {config.image_size}: not compared"}
    network = model
    if source.directory is not None:
        try:
            with without_load_report():  # a head or a pooler that is left out is no news here
                network = AutoModel.from_pretrained(source.directory, dtype=torch.float32).eval()
        except Exception as error:  # transformers reads fewer forms of files than we do, and every weight is accounted
            return {**facts, "note": f"transformers does not load the source to compare with ({error!r:.200})"}
    if preprocessing.resized or find_expected_image_size(network) not in (None, side):
        return {**facts, "note": f"made for {config.image_size} pixels, another size than the source's: not compared"}
    own = source.processor is not None and not preprocessing.chosen
    pixels = features = scale = 0.0
    for picture, view in pairs:
        before = make_view(preprocessing.original or source.processor, picture)[None] if own else view
        ours = compute_image_features(find_feature_network(model), view, find_feature_rule(model))
        theirs = compute_image_features(find_feature_network(network), before, find_feature_rule(network))
        pixels = max(pixels, float((view - before).abs().max()))
        features, scale = max(features, float((ours - theirs).abs().max())), max(scale, float(theirs.abs().max()))
    if network is not model and features > _TOLERANCE * max(scale, 1.0):
        raise ValueError(
            f"{source.name}: a picture through its own network and image processor gives other features than through "
            f"the converted ones (by {features:.1e}, the largest is {scale:.1e}): this network computes something "
            "that ours does not. Nothing was written: use it as it is."
        )
    return {**facts, "pixels": pixels, "features": features} if own else facts
