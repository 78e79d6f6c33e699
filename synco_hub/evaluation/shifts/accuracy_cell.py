"""One cell of a robustness table: how many images of one set a classifier gets right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from synco_hub.data import EvaluationDataset, UnreadableImages
from synco_hub.features import ExtractionSettings
from synco_hub.metrics import target_ranks


@dataclass(frozen=True)
class AccuracyCell:
    """Counts of one set.

    Attributes:
        images: Readable images.
        correct: Those whose class has the highest logit of all.
        correct_of_subset: Those whose class has the highest logit of the set's own classes; None if these are all.
        skipped: Names of the unreadable images.
        fingerprint: Of the set: names and labels.
        contents: Of its files, see `measurement.image_contents`; None if it was not looked for.
    """

    images: int
    correct: int
    correct_of_subset: int | None = None
    skipped: tuple[str, ...] = ()
    fingerprint: str | None = None
    contents: str | None = None

    @property
    def top1(self) -> float:
        """Accuracy among all classes of the classifier, in percent."""
        return 100.0 * self.correct / self.images

    @property
    def top1_of_subset(self) -> float | None:
        """Accuracy among the set's own classes, in percent."""
        return None if self.correct_of_subset is None else 100.0 * self.correct_of_subset / self.images

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What :meth:`to_dict` gave.

        Raises:
            ValueError: If it cannot have given this: a field is missing or unknown, or a count is impossible.
        """
        try:
            cell = cls(**{**values, "skipped": tuple(values.get("skipped", ()))})
            right = (cell.correct, cell.correct_of_subset or 0)
            if cell.images < 1 or not 0 <= min(right) <= max(right) <= cell.images:
                raise ValueError(f"{right} of {cell.images} images cannot be right")
        except TypeError as error:
            raise ValueError(str(error)) from error
        return cell


def measure_cell(
    network: nn.Module,
    dataset: EvaluationDataset,
    columns: Tensor,
    settings: ExtractionSettings,
    title: str,
    with_subset: bool = False,
) -> AccuracyCell:
    """Classify a set.

    Args:
        network: In eval mode, gives ``logits``.
        dataset: Labelled images.
        columns: Output of the classifier for each label. Shape: (num_classes of the set,).
        settings: Batch size, workers, progress.
        title: What the progress bar says.
        with_subset: Also count with all other outputs left out.

    Raises:
        ValueError: If the set is empty, none of its images is readable or too many are not, or a logit is NaN.
    """
    ledger = UnreadableImages(dataset, settings.max_bad_fraction)
    device = next(network.parameters()).device
    loader: DataLoader[Any] = DataLoader(dataset, settings.batch_size, num_workers=settings.num_workers)
    images = correct = of_subset = 0
    with tqdm(total=len(dataset), desc=title, unit="img", leave=False, disable=not settings.progress) as bar:
        for batch in loader:
            ledger.record(batch["bad_index"])
            good = batch["bad_index"] < 0
            if bool(good.any()):
                with torch.inference_mode():
                    logits = network(batch["pixel_values"][good].to(device)).logits.float().cpu()
                labels = batch["label"][good]
                correct += int((target_ranks(logits, columns[labels]) == 0).sum())
                if with_subset:
                    of_subset += int((target_ranks(logits[:, columns], labels) == 0).sum())
                images += len(labels)
            bar.update(len(good))
    if images == 0:
        raise ValueError(f"{title}: no image could be read: an accuracy needs at least one; check the folder")
    return AccuracyCell(
        images,
        correct,
        of_subset if with_subset else None,
        tuple(ledger.names()),
        dataset.images.description.fingerprint,
    )
