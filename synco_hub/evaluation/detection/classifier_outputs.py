"""What a classifier gives for a set of images, block by block: finished blocks are kept, so that a killed run goes on.

Blocks are whole batches, and a batch holds the same images in every run: so are the last bits of its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from synco_hub.data import EvaluationDataset, UnreadableImages
from synco_hub.evaluation.measurement.image_contents import contents_of_images
from synco_hub.evaluation.measurement.resumable_folder import finished_tensors, keep_tensors
from synco_hub.feature_adapter import feature_network, feature_rule, image_features
from synco_hub.features import ExtractionSettings

# Images of one file on disk: what a killed run has to compute again at most.
BLOCK = 2048
LOGITS, FEATURES = "logits", "features"
_INDICES = "indices"


@dataclass(frozen=True)
class Outputs:
    """What a classifier gives for a set.

    Attributes:
        logits: Shape: (images, num_classes), empty if they were not asked for.
        features: Shape: (images, dim), empty if they were not asked for.
        skipped: Names of the unreadable images.
    """

    logits: Tensor
    features: Tensor
    skipped: tuple[str, ...] = ()


class ClassifierOutputs:
    """Logits and features of the readable images of data sets.

    Args:
        network: In eval mode, gives ``logits``.
        settings: Batch size, workers, progress.
        folder: Where finished blocks are kept and taken from, claimed for this network and these settings; None
            keeps nothing.
    """

    def __init__(self, network: nn.Module, settings: ExtractionSettings, folder: Path | None = None) -> None:
        self._network, self._settings, self._folder = network, settings, folder

    def of(self, dataset: EvaluationDataset, title: str, wanted: Sequence[str] = (LOGITS,)) -> Outputs:
        """Compute, or take, what is wanted of every readable image.

        Args:
            dataset: Images, with or without labels.
            title: What the progress bar says, and the name of the blocks' folder.
            wanted: `LOGITS`, `FEATURES` or both.

        Raises:
            ValueError: If there is no readable image, or too many are unreadable.
        """
        blocks = self._blocks(len(dataset))
        kept = [self._kept(self._file(title, number), dataset, block, wanted) for number, block in enumerate(blocks)]
        missing = [batch for block, values in zip(blocks, kept, strict=True) if values is None for batch in block]
        workers = self._settings.num_workers if missing else 0
        loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=missing, num_workers=workers)
        ledger, fresh, parts = UnreadableImages(dataset, self._settings.max_bad_fraction), iter(loader), []
        with tqdm(total=len(dataset), desc=title, unit="img", disable=not self._settings.progress) as bar:
            for number, (block, values) in enumerate(zip(blocks, kept, strict=True)):
                if values is None:
                    file = self._file(title, number)
                    contents = "" if file is None else contents_of_images(dataset.images, _joined(block))
                    values = self._computed(fresh, block, wanted, (ledger, bar))
                    if file is not None:
                        keep_tensors(file, contents, values)
                else:
                    ledger.record(sorted(set(_joined(block)) - set(values[_INDICES].tolist())))
                    bar.update(len(_joined(block)))
                if len(values[_INDICES]):
                    parts.append(values)
        if not parts:
            raise ValueError(f"{title}: no image could be read; check the folder")
        found = {name: torch.cat([part[name] for part in parts]) for name in wanted}
        empty = torch.empty(0, 0)
        return Outputs(found.get(LOGITS, empty), found.get(FEATURES, empty), tuple(ledger.names()))

    def _blocks(self, count: int) -> list[list[list[int]]]:
        """Positions of the images, in batches, in blocks of batches."""
        size = self._settings.batch_size
        batches = [list(range(at, min(at + size, count))) for at in range(0, count, size)]
        per_block = math.ceil(BLOCK / size)
        return [batches[at : at + per_block] for at in range(0, len(batches), per_block)]

    def _computed(
        self,
        fresh: Iterator[Mapping[str, Tensor]],
        block: Sequence[Sequence[int]],
        wanted: Sequence[str],
        reports: tuple[UnreadableImages, Any],
    ) -> dict[str, Tensor]:
        ledger, bar = reports
        indices, rows = [torch.empty(0, dtype=torch.int64)], []
        for positions in block:
            batch = next(fresh)
            ledger.record(batch["bad_index"])
            good = batch["bad_index"] < 0
            if bool(good.any()):
                rows.append(self._forward(batch["pixel_values"][good], wanted))
                indices.append(batch["index"][good])
            bar.update(len(positions))
        found = {name: torch.cat([row[name] for row in rows]) for name in wanted} if rows else {}
        return {_INDICES: torch.cat(indices), **found}

    def _forward(self, pixels: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        pixels = pixels.to(next(self._network.parameters()).device)
        values: dict[str, Tensor] = {}
        with torch.inference_mode():
            if LOGITS in wanted:
                values[LOGITS] = self._network(pixels).logits.float().cpu()
            if FEATURES in wanted:
                backbone = feature_network(self._network)
                values[FEATURES] = image_features(backbone, pixels, feature_rule(backbone)).float().cpu()
        return values

    def _file(self, title: str, number: int) -> Path | None:
        return None if self._folder is None else self._folder / title / f"block-{number:06d}.safetensors"

    def _kept(
        self, file: Path | None, dataset: EvaluationDataset, block: Sequence[Sequence[int]], wanted: Sequence[str]
    ) -> dict[str, Tensor] | None:
        """A finished block of the same images with all that is wanted, None if there is none."""
        if file is None or not file.is_file():
            return None
        values = finished_tensors(file, contents_of_images(dataset.images, _joined(block)))
        complete = values is not None and (len(values[_INDICES]) == 0 or set(wanted) <= set(values))
        return values if complete else None


def _joined(block: Sequence[Sequence[int]]) -> list[int]:
    return [position for batch in block for position in batch]
