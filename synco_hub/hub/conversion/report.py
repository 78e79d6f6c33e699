"""What a conversion did, as data beside the weights: anyone can check it later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from synco_hub.atomic_write import atomic_write
from synco_hub.errors import escape
from synco_hub.results import library_versions

REPORT_FILE = "conversion_report.json"
SCHEMA_VERSION = 1
_SEED = 20240521
_SHOWN_VALUES = 8
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
        features: Checksum on a fixed input, see `feature_checksum`.
        licence: Identifier and the situation in words.
        leftover: Tensors of no known part; like the next two empty, for a conversion with any writes nothing.
        missing: Tensors of the network that the file does not have.
        wrong_shaped: Tensors of another shape than the network's.
        clean: Whether every tensor was accounted for.
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
    versions: Mapping[str, str] = field(
        default_factory=lambda: {**library_versions(), "safetensors": safetensors.__version__}
    )

    def save(self, directory: Path) -> None:
        """Write it as `conversion_report.json`."""
        values = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        with atomic_write(directory / REPORT_FILE) as temporary:
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
            f"features of the fixed input: mean {self.features['mean']:.6f}, std {self.features['std']:.6f}, "
            f"first {first}, sha256 {self.features['sha256'][:16]}…",
        ]


@torch.no_grad()
def fixed_input(num_channels: int, height: int, width: int, batch: int = 2) -> Tensor:
    """The images that checksums and comparisons are made on, the same everywhere.

    Returns:
        Standard normal numbers of a seeded generator on the CPU. Shape: (batch, channels, height, width).
    """
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(batch, num_channels, height, width, generator=generator)


@torch.no_grad()
def feature_checksum(model: Any) -> dict[str, Any]:
    """Features of the fixed input, in numbers that can be compared across machines and one that cannot be faked.

    Args:
        model: A `SynCoModel` in evaluation mode.

    Returns:
        `seed` and `shape` of the input, `mean`, `std` and `first_values` of the features (compare within 1e-4 across
        machines), and the `sha256` of their float32 bytes (equal only on the same software and processor).
    """
    config = model.config
    images = fixed_input(config.num_channels, config.image_size, config.image_size)
    features = model(pixel_values=images).pooler_output.float()
    return {
        "seed": _SEED,
        "input_shape": list(images.shape),
        "mean": float(features.mean()),
        "std": float(features.std()),
        "first_values": [float(value) for value in features[0, :_SHOWN_VALUES]],
        "sha256": hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest(),
    }
