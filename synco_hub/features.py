"""Frozen features of a data set: images in, (num_images, dim) float features and their labels out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from synco_hub.atomic_write import atomic_write
from synco_hub.data import DEFAULT_MAX_BAD_FRACTION, BadImageLedger
from synco_hub.feature_adapter import FeatureRule, feature_network, feature_rule, image_features
from synco_hub.frozen import frozen

logger = logging.getLogger(__name__)

_FORMAT = "synco-hub features 1"


class NamedItems(Protocol):
    """What features are made of; :class:`synco_hub.data.EvaluationDataset` is one.

    Items are mappings with ``pixel_values`` (channels, height, width), ``label``, and ``bad_index``: -1, or not
    negative where the image could not be read, whose ``pixel_values`` are then ignored.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...

    def name(self, index: int) -> str:
        """How reports name one image."""
        ...


@dataclass(frozen=True)
class ExtractionSettings:
    """How features are computed; nothing here changes which feature it is.

    Attributes:
        batch_size: Images a forward pass.
        num_workers: Processes that decode images; 0 decodes in this one.
        device: Where the model runs; None for where it is. The model is put back afterwards.
        dtype: Type of the arithmetic under autocast, such as torch.bfloat16; None for the type of the weights.
        max_bad_fraction: Largest share of images that may be unreadable.
        progress: Show a progress bar with rate and remaining time.
        num_processes: Processes that share the images, see `synco_hub.feature_processes`; a GPU each where there are.
    """

    batch_size: int = 256
    num_workers: int = 0
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION
    progress: bool = True
    num_processes: int = 1

    def __post_init__(self) -> None:
        if self.num_processes < 1:
            raise ValueError(f"num_processes={self.num_processes}: give at least 1")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: a batch holds at least 1 image")
        if self.num_workers < 0:
            raise ValueError(f"num_workers={self.num_workers}: choose 0 (this process decodes) or more")


@dataclass(frozen=True)
class Features:
    """Features of the readable images of a data set, in its order.

    Attributes:
        values: Features, float32, on the CPU. Shape: (num_images, dim).
        labels: Class indices (num_images,), -1 for an image without a label, or what the data set gives in their
            place, such as multi-hot rows (num_images, num_classes).
        indices: Position of each image in the data set. Shape: (num_images,).
        skipped: Positions of the images that could not be read and have no row here. Shape: (num_skipped,).
        facts: What the features are of (model, data set, rule), as texts; travels with a saved file.
    """

    values: Tensor
    labels: Tensor
    indices: Tensor
    skipped: Tensor
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not len(self.values) == len(self.labels) == len(self.indices):
            raise ValueError(
                f"values {tuple(self.values.shape)}, labels {tuple(self.labels.shape)} and indices "
                f"{tuple(self.indices.shape)} do not fit: they are (images, dim), (images, ...) and (images,)"
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, whole or not at all, and return its path."""
        tensors = {name: getattr(self, name).contiguous() for name in ("values", "labels", "indices", "skipped")}
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={"format": _FORMAT, "facts": json.dumps(dict(self.facts))})
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no safetensors file or does not hold features.
        """
        try:
            with safe_open(path, framework="pt") as stored:
                metadata = stored.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(
                        f"{str(path)!r} has the format {metadata.get('format')!r}, {_FORMAT!r} is needed: "
                        "extract the features again with --save-features"
                    )
                tensors = {name: stored.get_tensor(name) for name in ("values", "labels", "indices", "skipped")}
        except SafetensorError as error:
            raise ValueError(
                f"{str(path)!r} is not a whole file of features ({error}): extract them again with --save-features"
            ) from None
        return cls(**tensors, facts=json.loads(metadata["facts"]))


def extract_features(
    model: nn.Module,
    dataset: NamedItems,
    settings: ExtractionSettings | None = None,
    rule: FeatureRule | None = None,
    title: str = "features",
) -> Features:
    """Compute the frozen features of every readable image.

    The model runs in eval mode without gradients; its training flags and its device are put back afterwards, also
    after an error.

    Args:
        model: Any model that :mod:`synco_hub.feature_adapter` knows, with or without a head.
        dataset: Images, labels and names. An image that cannot be read gets no row, is counted in ``skipped`` and
            named in the log.
        settings: Batch size, workers, device, arithmetic, progress.
        rule: Which feature; None for the model's own rule.
        title: What the progress bar says.

    Returns:
        Features in the order of the data set.

    Raises:
        ValueError: If the data set is empty, more images than allowed are unreadable, the model's feature is unknown,
            or features are NaN or infinite (count and first index are named).
    """
    settings = settings or ExtractionSettings()
    rule = rule or feature_rule(model)
    count = len(dataset)
    if count == 0:
        raise ValueError("the data set is empty: features need at least one image; check the folder or the split")
    kept, ledger = _Kept(count), BadImageLedger(dataset, settings.max_bad_fraction)
    with (
        frozen(feature_network(model), settings.device) as network,
        tqdm(total=count, desc=title, unit="img", disable=not settings.progress) as bar,
    ):
        device = next(network.parameters()).device
        loader: DataLoader[Any] = DataLoader(
            cast("Dataset[Any]", dataset),
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            pin_memory=device.type == "cuda",
        )
        for batch in loader:
            ledger.record(batch["bad_index"])
            kept.add(_forward(network, rule, device, settings.dtype, batch["pixel_values"]).float().cpu(), batch)
            bar.update(len(batch["pixel_values"]))
    if len(ledger) > 0:
        logger.warning("%s: %s", title, ledger.summary())
    return kept.features({"feature": rule.description})


def _forward(
    network: nn.Module, rule: FeatureRule, device: torch.device, dtype: torch.dtype | None, pixel_values: Tensor
) -> Tensor:
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
    with torch.inference_mode(), autocast:
        return image_features(network, pixel_values.to(device, non_blocking=True), rule)


class _Kept:
    """Rows collected batch by batch into one tensor that is allocated once."""

    def __init__(self, count: int) -> None:
        self.count, self.seen, self.filled = count, 0, 0
        self.values: Tensor | None = None
        self.labels: list[Tensor] = []
        self.indices: list[Tensor] = []
        self.skipped: list[Tensor] = []

    def add(self, values: Tensor, batch: Mapping[str, Any]) -> None:
        position = torch.arange(self.seen, self.seen + len(values))
        good = torch.as_tensor(batch["bad_index"]) < 0
        if self.values is None:
            self.values = torch.empty(self.count, values.shape[1])
            # A broken model is found in the first batch, not after hours.
            check_finite(values[good], position[good])
        rows = int(good.sum())
        self.values[self.filled : self.filled + rows] = values[good]
        self.labels.append(torch.as_tensor(batch["label"])[good])
        self.indices.append(position[good])
        self.skipped.append(position[~good])
        self.seen += len(values)
        self.filled += rows

    def features(self, facts: Mapping[str, str]) -> Features:
        if self.values is None or self.filled == 0:
            raise ValueError(f"none of the {self.count} images could be read: check the files of the data set")
        values, indices = self.values[: self.filled], torch.cat(self.indices)
        check_finite(values, indices)
        return Features(values, torch.cat(self.labels), indices, torch.cat(self.skipped), facts)


def check_finite(values: Tensor, indices: Tensor | None = None) -> None:
    """Check that no feature is NaN or infinite.

    Args:
        values: Features. Shape: (num_images, dim).
        indices: Position of each image in the data set; None for 0, 1, 2, ... Shape: (num_images,).

    Raises:
        ValueError: Naming how many images have such features and the first of them.
    """
    # A sum is NaN or infinite if a member is, and needs no array of the size of the features.
    broken = (
        torch.cat([~torch.isfinite(part.double().sum(dim=1)) for part in values.split(65_536)]).nonzero().flatten()
    )
    if len(broken) > 0:
        first = int(broken[0]) if indices is None else int(indices[broken[0]])
        raise ValueError(
            f"the features of {len(broken)} of {len(values)} images are NaN or infinite, first at index {first}: "
            "check the checkpoint's weights, or compute in float32"
        )
