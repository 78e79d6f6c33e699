"""The batches of an attack, each measured once: finished ones are kept in a folder, so that a killed run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from synco_hub.data import EvaluationDataset, UnreadableImages
from synco_hub.evaluation.attacks.adversarial_report import accuracy
from synco_hub.evaluation.attacks.attacks import AttackedBatch
from synco_hub.evaluation.measurement.image_contents import contents_of_images
from synco_hub.evaluation.measurement.resumable_folder import claim_folder, finished_part, keep_part
from synco_hub.features import ExtractionSettings

BatchMeasure = Callable[[Tensor, Tensor, int], AttackedBatch]


class AttackedBatches:
    """The batches of a data set, and what was found on each.

    Args:
        dataset: The images.
        folder: Keeps finished batches.
        facts: Everything that the numbers of every batch depend on, beside the images themselves.
        settings: Batch size, workers, progress.

    Attributes:
        positions: Positions in the data set of the images of each batch.
        ledger: The unreadable images.

    Raises:
        ValueError: If the folder belongs to another measurement.
    """

    def __init__(
        self, dataset: EvaluationDataset, folder: Path, facts: Mapping[str, Any], settings: ExtractionSettings
    ) -> None:
        claim_folder(folder, facts)
        size = settings.batch_size
        self.positions = [list(range(at, min(at + size, len(dataset)))) for at in range(0, len(dataset), size)]
        self.ledger = UnreadableImages(dataset, settings.max_bad_fraction)
        self._images, self._folder, self._settings = dataset.images, folder, settings
        self._known_contents: dict[int, str] = {}

    def measured(self, name: str, kind: str, dataset: EvaluationDataset, measure: BatchMeasure) -> list[AttackedBatch]:
        """Take finished batches from the folder and measure the others, under a progress bar with the accuracy.

        Args:
            name: What the progress bar says.
            kind: Names the batches' own folder: equal kinds are equal measurements.
            dataset: The images as ``measure`` takes them.
            measure: From the readable images of a batch, Shape: (batch, channels, height, width), their positions in
                the data set, Shape: (batch,), and the number of the batch.

        Returns:
            What was found on each batch; one without readable images is empty.
        """
        kept = [self._kept(kind, number) for number in range(len(self.positions))]
        missing = [positions for positions, values in zip(self.positions, kept, strict=True) if values is None]
        workers = self._settings.num_workers if missing else 0
        loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=missing, num_workers=workers)
        fresh, found = iter(loader), list[AttackedBatch]()
        with tqdm(total=len(dataset), desc=name, unit="img", disable=not self._settings.progress) as bar:
            for number, (positions, values) in enumerate(zip(self.positions, kept, strict=True)):
                if values is None:
                    contents = self._contents(number)
                    found.append(self._fresh(next(fresh), number, measure))
                    keep_part(self._file(kind, number), contents, found[-1].to_dict())
                else:
                    found.append(AttackedBatch.from_dict(values))
                    self.ledger.record(sorted(set(positions) - set(found[-1].indices)))
                bar.update(len(positions))
                if any(batch.correct for batch in found):
                    bar.set_postfix({"top-1": f"{accuracy(found):.1f} %"}, refresh=False)
        return found

    def _fresh(self, batch: Mapping[str, Tensor], number: int, measure: BatchMeasure) -> AttackedBatch:
        self.ledger.record(batch["bad_index"])
        good = batch["bad_index"] < 0
        indices = batch["index"][good]
        return AttackedBatch((), ()) if len(indices) == 0 else measure(batch["pixel_values"][good], indices, number)

    def _kept(self, kind: str, number: int) -> dict[str, Any] | None:
        file = self._file(kind, number)
        return finished_part(file, self._contents(number)) if file.is_file() else None

    def _contents(self, number: int) -> str:
        # Once for all attacks: what changes while they run is not looked for.
        if number not in self._known_contents:
            self._known_contents[number] = contents_of_images(self._images, self.positions[number])
        return self._known_contents[number]

    def _file(self, kind: str, number: int) -> Path:
        return self._folder / kind / f"batch-{number:06d}.json"
