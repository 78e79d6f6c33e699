"""Frozen features of a data set: images in, (num_images, dim) float features and their labels out.

Several processes may share the images: each reads and forwards its own part, and the parts are put together in order.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from synco_hub.atomic_write import atomic_write
from synco_hub.data import UnreadableImages
from synco_hub.data.worker_signals import worker_settings
from synco_hub.feature_pooling import FeatureRule, compute_image_features, find_feature_network, find_feature_rule
from synco_hub.settings import ExtractionSettings, Precision

logger = logging.getLogger(__name__)

AUTOCAST_TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of the arithmetic under autocast for each precision; None for that of the weights."""
_FORMAT = "synco-hub features 1"


def choose_device(wanted: str | None = None) -> str:
    """The device that is wanted, if it can be used here; None for an accelerator if there is one, else the CPU."""
    if wanted is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition(". ")[0].splitlines()[0][:120]
        raise ValueError(f"--device {wanted}: cannot be used here ({said}); give cpu, or leave it out.") from None
    return wanted


def check_precision(precision: Precision, device: str) -> None:
    """Refuse a precision that the device cannot compute in."""
    if precision == "bf16" and torch.device(device).type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(
            f"--precision bf16: {torch.cuda.get_device_name(device)} has no bfloat16; give fp16, or leave it out."
        )


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
        """Read what :meth:`save` wrote."""
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
    """
    settings = settings or ExtractionSettings()
    rule = rule or find_feature_rule(model)
    count = len(dataset)
    if count == 0:
        raise ValueError("the data set is empty: features need at least one image; check the folder or the split")
    kept, ledger = _Kept(count), UnreadableImages(dataset, settings.max_bad_fraction)
    with (
        eval_mode(find_feature_network(model), settings.device) as network,
        tqdm(total=count, desc=title, unit="img", disable=not settings.progress) as bar,
    ):
        device = next(network.parameters()).device
        loader: DataLoader[Any] = DataLoader(
            cast("Dataset[Any]", dataset),
            batch_size=settings.batch_size,
            **worker_settings(settings.num_workers),
            pin_memory=device.type == "cuda",
        )
        for batch in loader:
            ledger.record(batch["bad_index"])
            kept.add(_forward(network, rule, settings.precision, batch["pixel_values"]).float().cpu(), batch)
            bar.update(len(batch["pixel_values"]))
    if len(ledger) > 0:
        logger.warning("%s: %s", title, ledger.summary())
    return kept.features({"feature": rule.description})


def _forward(network: nn.Module, rule: FeatureRule, precision: Precision, pixel_values: Tensor) -> Tensor:
    device, dtype = next(network.parameters()).device, AUTOCAST_TYPES[precision]
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
    with torch.inference_mode(), autocast:
        return compute_image_features(network, pixel_values.to(device, non_blocking=True), rule)


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


@dataclass(frozen=True)
class DatasetPart:
    """The images from ``start`` to ``stop`` of a data set."""

    dataset: NamedItems
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Any:
        item = dict(self.dataset[self.start + index])
        # A data set says by its own position which image it could not read; here positions begin at `start`.
        item["bad_index"] = index if item["bad_index"] >= 0 else -1
        return item

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.dataset.name(self.start + index)


def parts(count: int, num_processes: int) -> list[tuple[int, int]]:
    """Start and stop of each process's share: in order, none empty, sizes differing by one at most."""
    used = min(num_processes, count)
    bounds = [count * number // used for number in range(used + 1)]
    return list(itertools.pairwise(bounds))


def list_devices(device: torch.device | str | None, num_processes: int) -> list[str]:
    """The device of each process: one GPU each where ``device`` is `cuda`, else the device itself."""
    if str(device) != "cuda":
        return [str(device or "cpu")] * num_processes
    if num_processes > torch.cuda.device_count():
        raise ValueError(
            f"--num-processes {num_processes} with {torch.cuda.device_count()} GPUs: one process a GPU is useful; "
            "give at most their number"
        )
    return [f"cuda:{number}" for number in range(num_processes)]


@contextmanager
def start_fresh_processes(num_processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes share the cores among them."""
    threads = max(torch.get_num_threads() // num_processes, 1)
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        num_processes, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        yield pool


def extract_features_in_processes(
    model: nn.Module,
    dataset: NamedItems,
    settings: ExtractionSettings,
    rule: FeatureRule | None = None,
    title: str = "features",
    extract: Callable[..., Features] = extract_features,
) -> Features:
    """As :func:`extract_features`, by as many processes as the settings say, each with its own part of the images.

    Batch size and workers are per process; one process is this one. `extract` is what each process runs.
    """
    count = len(dataset)
    if settings.num_processes == 1 or count < 2:
        return extract(model, dataset, settings, rule, title)
    shares = parts(count, settings.num_processes)
    devices = list_devices(settings.device, len(shares))
    # Unreadable images may lie together in one share: the whole decides, below.
    of_each = replace(settings, max_bad_fraction=1.0)
    with start_fresh_processes(len(shares)) as pool:
        running = [
            pool.submit(
                extract,
                model,
                DatasetPart(dataset, start, stop),
                replace(of_each, device=device, progress=settings.progress and number == 0),
                rule,
                f"{title}, process 1 of {len(shares)}",
            )
            for number, ((start, stop), device) in enumerate(zip(shares, devices, strict=True))
        ]
        found = [each.result() for each in running]
    together = join_features(found, [start for start, _ in shares])
    ledger = UnreadableImages(dataset, settings.max_bad_fraction)
    ledger.record(together.skipped)
    return together


def join_features(found: Sequence[Features], starts: Sequence[int]) -> Features:
    """Features of consecutive shares as those of the whole; `starts` are the positions of their first images."""
    return Features(
        values=torch.cat([each.values for each in found]),
        labels=torch.cat([each.labels for each in found]),
        indices=torch.cat([each.indices + start for each, start in zip(found, starts, strict=True)]),
        skipped=torch.cat([each.skipped + start for each, start in zip(found, starts, strict=True)]),
        facts=found[0].facts,
    )


@contextmanager
def eval_mode(network: nn.Module, device: torch.device | str | None = None) -> Iterator[nn.Module]:
    """Yield the network in eval mode on a device; put training flags and device back, also after an error.

    Gradients are the caller's business: wrap the forward pass in ``torch.no_grad()`` or ``torch.inference_mode()``.
    """
    # Module by module: a frozen BatchNorm inside a training network must not come back in training mode.
    training = [(module, module.training) for module in network.modules()]
    home = next(network.parameters()).device
    try:
        network.eval()
        if device is not None:
            network.to(device)
        yield network
    finally:
        if device is not None:
            network.to(home)
        for module, flag in training:
            module.training = flag
