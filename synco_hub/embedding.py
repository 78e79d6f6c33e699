"""Frozen features with the names of their images, as a table: one row an image, whatever split it is in.

A table is written in parts of some thousand images. What was computed stays when the work is ended, and the file gets
its name only when it is whole.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Features, Value
from datasets import Sequence as ListOf
from pyarrow import parquet
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader
from tqdm import tqdm

from synco_hub.atomic_write import atomic_write
from synco_hub.data import EvaluationDataset, ImageDataset, UnreadableImages, load_dataset
from synco_hub.data.catalog.sets import CATALOG
from synco_hub.data.image_folder import ImageFolderDataset
from synco_hub.data.worker_signals import worker_settings
from synco_hub.embedding_tables import ARRAY_SUFFIX, TABLE_SUFFIX, join_parts
from synco_hub.evaluation.measurement import EvaluatedModel, data_source, model_source
from synco_hub.evaluation.resume import ResumableFolder, hash_contents, identify_model, read_json, write_json
from synco_hub.feature_pooling import (
    FeatureRule,
    compute_image_features,
    find_feature_network,
    find_feature_rule,
)
from synco_hub.features import (
    AUTOCAST_TYPES,
    check_finite,
    choose_device,
    eval_mode,
    list_devices,
    parts,
    start_fresh_processes,
)
from synco_hub.hub.loading import load_model
from synco_hub.hub.model_names import find_revision
from synco_hub.output_paths import check_output_file, check_output_folder
from synco_hub.settings import DatasetChoice, EmbeddingSettings
from synco_hub.visualization.token_maps import token_map

logger = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"
# Images of a part: what a killed run loses at most, and what one process holds in memory.
_PART = 2048
_PART_OF_PATCHES = 128


def embed(
    model: str | os.PathLike[str],
    dataset: str | os.PathLike[str] | DatasetChoice = "fractals",
    output: str | os.PathLike[str] = "embeddings.parquet",
    model_revision: str | None = None,
    **settings: Any,
) -> Path:
    """Write the frozen features of every image of a data set, with the images' names.

    Args:
        model: Short name, checkpoint directory, Hub id, or ``timm:<name>``.
        dataset: See `DatasetChoice.dataset`, or a whole choice. Folders may be without classes.
        output: A `.parquet` file; a folder, which gets several; or an `.npy` file, beside which the names stand in a
            `.csv`. `Embeddings.read` reads the first two, as do `datasets`, pandas and polars.
        model_revision: Commit, branch or tag of a model on the Hub.
        settings: Fields of `EmbeddingSettings` (batch_size, split, what, dtype, …).

    Returns:
        Where it was written. One row an image: `file_name`, `split`, `label` where there are classes, `embedding`.

    Raises:
        ValueError: If something does not fit, or images cannot be read.
        OSError: If model or files are not there, or the disk is full; what was computed is kept for the next call.
    """
    choice = dataset if isinstance(dataset, DatasetChoice) else DatasetChoice(os.fspath(dataset))
    return write_embeddings(os.fspath(model), choice, EmbeddingSettings(**settings), Path(output), model_revision)


def write_embeddings(
    name: str, choice: DatasetChoice, settings: EmbeddingSettings, output: Path, model_revision: str | None = None
) -> Path:
    """As :func:`embed`, for settings that are made already."""
    _check_output(output)
    found = find_revision(name, model_revision)
    at: dict[str, Any] = {} if found.commit is None else {"revision": found.commit}
    network, processor = load_model(name, **at)
    model = EvaluatedModel(network, processor, name, (), found.words)
    settings = replace(settings, device=choose_device(settings.device))
    work = _Work.plan(model, choice, settings)
    folder = output.with_name(output.name + _UNFINISHED)
    ResumableFolder(folder, work.identity())  # refuses parts of other work
    missing = [part for part in work.parts if not (folder / work.file(part)).is_file()]
    if len(missing) < len(work.parts):
        done = len(work.parts) - len(missing)
        logger.warning("%s: going on after %d of %d parts", folder, done, len(work.parts))
    work.compute(missing, folder)
    ledger = UnreadableImages(work, settings.max_bad_fraction)
    ledger.record(torch.tensor(work.skipped(folder), dtype=torch.long))
    if len(ledger):
        logger.warning("%s", ledger.summary())
    join_parts([folder / work.file(part) for part in work.parts], work.facts(ledger.names()), folder, output)
    return output


def _check_output(output: Path) -> None:
    if output.suffix in (TABLE_SUFFIX, ARRAY_SUFFIX):
        check_output_file(output, "--output")
    elif output.suffix and not output.is_dir():
        raise ValueError(
            f"--output {output}: give a file that ends in {TABLE_SUFFIX} or {ARRAY_SUFFIX}, or a folder, which has no "
            "suffix."
        )
    else:
        check_output_folder(output, "--output")
        if output.is_dir() and any(output.iterdir()):
            raise ValueError(f"--output {output}: the folder is not empty; give another one.")


@dataclass(frozen=True)
class _Work:
    """The images of all splits in a row, cut into parts; what each process needs to do its share."""

    model: EvaluatedModel
    choice: DatasetChoice
    splits: tuple[tuple[str, ...], ...]
    sets: tuple[EvaluationDataset, ...]
    settings: EmbeddingSettings
    rule: FeatureRule
    parts: tuple[tuple[int, int], ...]

    @classmethod
    def plan(cls, model: EvaluatedModel, choice: DatasetChoice, settings: EmbeddingSettings) -> _Work:
        found = list(open_splits(choice, settings.split, model.transform.image_size))
        sets = tuple(EvaluationDataset(images, model.transform) for images, _ in found)
        count, size = sum(map(len, sets)), _PART_OF_PATCHES if settings.what == "patches" else _PART
        if count == 0:
            raise ValueError(f"data set {choice.dataset!r} holds no image: check the folder or --split")
        rule = choose_rule(model, settings.what)
        cuts = tuple((start, min(start + size, count)) for start in range(0, count, size))
        return cls(model, choice, tuple(splits for _, splits in found), sets, settings, rule, cuts)

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def name(self, index: int) -> str:
        number, place = self._find(index)
        return self.sets[number].name(place)

    def _find(self, index: int) -> tuple[int, int]:
        for number, each in enumerate(self.sets):
            if index < len(each):
                return number, index
            index -= len(each)
        raise IndexError(index)

    def identity(self) -> dict[str, Any]:
        """What the parts of a stopped run and of the one that goes on must have in common."""
        return {
            "model": identify_model(self.model.network),
            "images": [hash_contents(each.images) for each in self.sets],
            "settings": [self.settings.split, self.settings.what, self.settings.dtype, self.settings.precision],
            "preprocessing": self.sets[0].transform.facts(),
        }

    def facts(self, skipped: Sequence[str]) -> dict[str, Any]:
        return {
            "model": asdict(
                model_source(self.model.network, self.model.name, self.model.revision, self.settings.precision)
            ),
            "feature": self.rule.description,
            "what": self.settings.what,
            "precision": self.settings.precision,
            # What opens the images again.
            "choice": asdict(self.choice),
            "split": self.settings.split,
            "datasets": [asdict(data_source(each.images.description, len(each))) for each in self.sets],
            "preprocessing": self.sets[0].transform.facts(),
            "skipped_files": list(skipped),
        }

    def file(self, part: tuple[int, int]) -> str:
        return f"part-{part[0]:010d}{TABLE_SUFFIX}"

    def skipped(self, folder: Path) -> list[int]:
        return [k for part in self.parts for k in read_json(folder / f"{self.file(part)}.json")["skipped"]]

    def compute(self, missing: Sequence[tuple[int, int]], folder: Path) -> None:
        """Write the parts that are missing, by as many processes as the settings say."""
        shares = parts(len(missing), self.settings.num_processes) if missing else []
        if len(shares) <= 1:
            _compute_share(self, missing, folder)
            return
        devices = list_devices(self.settings.device, len(shares))
        with start_fresh_processes(len(shares)) as pool:
            running = []
            for number, ((start, stop), device) in enumerate(zip(shares, devices, strict=True)):
                own = replace(self.settings, device=device, progress=self.settings.progress and number == 0)
                running.append(
                    pool.submit(_compute_share, replace(self, settings=own), list(missing[start:stop]), folder)
                )
            for each in running:
                each.result()


def open_splits(
    choice: DatasetChoice, split: str, image_size: int | None
) -> Iterator[tuple[ImageDataset, tuple[str, ...]]]:
    """The images, and the split of each; of a folder of images of one's own all that lie in it."""
    found: dict[str, Any] = {}
    for name in ("train", "test") if split == "all" else (split,):
        with suppress(*((ValueError,) if split == "all" and found else ())):
            found[name] = load_dataset(choice, name, image_size=image_size)
    own = all(
        isinstance(images, ImageFolderDataset) and images.description.name not in CATALOG for images in found.values()
    )
    if split == "all" and own:
        everything = load_dataset(choice, "all", image_size=image_size)
        _label_alike(everything, found)
        known = {_path(images, k): name for name, images in found.items() for k in range(len(images))}
        yield everything, tuple(known.get(_path(everything, k), "") for k in range(len(everything)))
        return
    for name, images in found.items():
        yield images, (name,) * len(images)


def _path(images: Any, index: int) -> str:
    return os.path.join(images.root, images.names[index])


def _label_alike(everything: Any, found: Mapping[str, Any]) -> None:
    """Give all images of a folder the labels that those of its splits have; what lies in no split keeps none."""
    places = {_path(everything, k): k for k in range(len(everything))}
    first = next(iter(found.values()))
    everything.class_names = list(first.class_names)
    if first.multi_hot is not None:
        everything.multi_hot = np.zeros((len(everything), first.multi_hot.shape[1]), dtype=np.float32)
    for images in found.values():
        here = [places[_path(images, k)] for k in range(len(images))]
        everything.labels[here] = images.labels
        if first.multi_hot is not None:
            everything.multi_hot[here] = images.multi_hot


def choose_rule(model: EvaluatedModel, what: str) -> FeatureRule:
    """The feature of k-NN, or the one that was named, if the network has it."""
    rule, network = find_feature_rule(model.network), find_feature_network(model.network)
    if what == "patches":
        return FeatureRule("mean_token", "patch tokens after the final norm")
    if what == "cls" and not rule.description.startswith("[CLS]"):
        raise ValueError(
            f"--what cls: the feature of {model.name} ({type(network).__name__}) is the {rule.description}, it has no "
            "[CLS] token of that kind; leave --what out, or give mean"
        )
    if what == "mean":
        return FeatureRule("mean_token", "mean of the patch tokens after the final norm")
    return rule


def _compute_share(work: _Work, share: Sequence[tuple[int, int]], folder: Path) -> None:
    """Compute parts one after the other; one loader reads for all of them, and none waits for the next."""
    settings = work.settings
    batches = [
        list(range(first, min(first + settings.batch_size, stop)))
        for start, stop in share
        for first in range(start, stop, settings.batch_size)
    ]
    if not batches:
        return
    with (
        eval_mode(find_feature_network(work.model.network), settings.device) as network,
        tqdm(total=sum(map(len, batches)), desc="embeddings", unit="img", disable=not settings.progress) as bar,
    ):
        device = next(network.parameters()).device
        loader: DataLoader[Any] = DataLoader(
            ConcatDataset(work.sets),  # type: ignore[arg-type]
            batch_sampler=batches,
            **worker_settings(settings.num_workers),
            pin_memory=device.type == "cuda",
        )
        rows, labels, bad = [], [], []
        ends, following = iter(share), iter(batches)
        part = next(ends)
        for batch in loader:
            places = torch.tensor(next(following))
            good = torch.as_tensor(batch["bad_index"]) < 0
            pixels = batch["pixel_values"].to(device, non_blocking=True)
            values = read_out(network, pixels, settings, work.rule)[good.to(device)]
            check_finite(values.flatten(1), places[good])
            rows.append(values.cpu())
            labels.append(torch.as_tensor(batch["label"])[good])
            bad += places[~good].tolist()
            bar.update(len(places))
            if int(places[-1]) + 1 == part[1]:
                _write_part(work, part, torch.cat(rows), torch.cat(labels), bad, folder)
                rows, labels, bad = [], [], []
                part = next(ends, part)


def read_out(network: Any, pixel_values: Tensor, settings: EmbeddingSettings, rule: FeatureRule) -> Tensor:
    """Vectors of a batch: (batch, dim), of patches (batch, patches, dim)."""
    dtype = AUTOCAST_TYPES[settings.precision]
    with torch.inference_mode(), torch.autocast(pixel_values.device.type, dtype=dtype, enabled=dtype is not None):
        if settings.what in ("mean", "patches"):
            tokens = token_map(network, pixel_values).flatten(1, 2)
            return tokens.mean(dim=1) if settings.what == "mean" else tokens
        return compute_image_features(network, pixel_values, rule).float()


def _schema(work: _Work, values: Tensor) -> pa.Schema:
    """Columns as `datasets` describes them, so that it gives classes their names."""
    images = work.sets[0].images
    embedding: Any = ListOf(Value(work.settings.dtype), length=values.shape[-1])
    if values.ndim == 3:
        embedding = ListOf(embedding, length=values.shape[1])
    columns: dict[str, Any] = {"file_name": Value("string"), "split": Value("string")}
    if images.multi_hot is not None:
        columns["label"] = ListOf(Value("float32"), length=images.multi_hot.shape[1])
    elif images.class_names:
        columns["label"] = ClassLabel(names=list(images.class_names))
    return Features({**columns, "embedding": embedding}).arrow_schema


def _write_part(
    work: _Work, part: tuple[int, int], values: Tensor, labels: Tensor, bad: Sequence[int], folder: Path
) -> None:
    """Write what was computed of one part; its list of unreadable images first, so that a part is never without it."""
    places = sorted(set(range(*part)) - set(bad))
    schema = _schema(work, values)
    numbers = values.to(getattr(torch, work.settings.dtype)).numpy()
    arrays: Any = pa.array(numbers.reshape(-1))
    for size in reversed(numbers.shape[1:]):
        arrays = pa.FixedSizeListArray.from_arrays(arrays, size)
    found = [work._find(place) for place in places]
    columns: dict[str, Any] = {
        "file_name": [work.sets[number].name(place) for number, place in found],
        "split": [work.splits[number][place] for number, place in found],
        "embedding": arrays,
    }
    if "label" in schema.names:
        several = work.sets[0].images.multi_hot is not None
        columns["label"] = (
            [work.sets[number].images.multi_hot[place].tolist() for number, place in found]  # type: ignore[index]
            if several
            else labels.numpy()
        )
    write_json(folder / f"{work.file(part)}.json", {"skipped": list(bad)})
    with atomic_write(folder / work.file(part)) as unfinished:
        parquet.write_table(pa.table([columns[name] for name in schema.names], schema=schema), unfinished)
