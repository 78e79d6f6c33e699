"""Accuracy under attack (Table 14): each attack on each batch, kept as it finishes, and one result of them all.

Source: paper, section 8.3: linear classifiers trained on clean images, untargeted attacks, inputs in [0, 1].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from synco_hub.data import BadImageLedger, EvaluationDataset
from synco_hub.data.corruptions.corrupted_dataset import pixel_transform
from synco_hub.data.image_dataset import fingerprint
from synco_hub.data.random_keys import random_key
from synco_hub.evaluation.adversarial_report import (
    accuracy,
    attack_facts,
    attack_metrics,
    is_null,
    missing_note,
    null_note,
)
from synco_hub.evaluation.attack_settings import ATTACKS, AttackSettings
from synco_hub.evaluation.attacks import AttackedBatch, attack_batch
from synco_hub.evaluation.batch_store import BatchStore, weights_fingerprint
from synco_hub.evaluation.classification_targets import check_same_classes, classification_targets
from synco_hub.evaluation.measured_split import preprocessing
from synco_hub.evaluation.pixel_classifier import PixelClassifier, attackable
from synco_hub.features import ExtractionSettings
from synco_hub.metrics import target_ranks
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts, device_name

PROTOCOL = "adversarial"
CLEAN, PLAIN = "clean", "clean without wrapper"


@dataclass(frozen=True)
class AttackedModel:
    """A classifier to attack.

    Attributes:
        classifier: Takes normalised images and gives ``logits``.
        class_names: In the order of its logits.
        name: What results call it.
    """

    classifier: nn.Module
    class_names: tuple[str, ...]
    name: str


class AdversarialRun:
    """One classifier, one set of images, some attacks; interrupted anywhere, the same call goes on.

    Args:
        model: What is attacked.
        dataset: Labelled images with the evaluation transform.
        attacks: Attacks by name.
        folder: Keeps finished batches.
        settings: Batch size, workers, device, progress.
        seed: Of everything that is drawn.
        subset: Positions in the whole data set, where ``dataset`` is a part of it; None if it is whole.

    Raises:
        ValueError: If the data set is empty or unlabelled, has other classes or several an image, or the folder
            belongs to another measurement.
    """

    def __init__(
        self,
        model: AttackedModel,
        dataset: EvaluationDataset,
        attacks: Mapping[str, AttackSettings],
        folder: Path,
        settings: ExtractionSettings | None = None,
        seed: int = 0,
        subset: Sequence[int] | None = None,
    ) -> None:
        targets = classification_targets(dataset.images, "an attack")
        if targets.multi_label:
            raise ValueError(f"{dataset.images.description.name} has several classes an image: attacks need one")
        check_same_classes(model.class_names, targets.class_names)
        self.model, self.dataset, self.attacks, self.seed = model, dataset, dict(attacks), seed
        self.settings = settings or ExtractionSettings()
        self.subset = None if subset is None else list(subset)
        self.targets = targets.values
        self.pixels = EvaluationDataset(dataset.images, pixel_transform(dataset.transform))
        self.ledger = BadImageLedger(dataset, self.settings.max_bad_fraction)
        self.revision = weights_fingerprint(model.classifier)
        size = self.settings.batch_size
        self.batches = [list(range(at, min(at + size, len(dataset)))) for at in range(0, len(dataset), size)]
        self.store = BatchStore(folder, self._identity())
        self.done: dict[str, list[AttackedBatch]] = {}
        self.device = "cpu"
        self.started = time.perf_counter()

    def results(self) -> Iterator[EvaluationResult]:
        """Attack, and yield the result so far after the clean images and after each attack.

        Raises:
            ImportError: If torchattacks is not installed.
            ValueError: If the wrapped classifier is not as accurate as the plain one, an image is outside [0, 1], or
                an attack that follows the gradient changed nothing.
        """
        transform = self.dataset.transform
        with attackable(self.model.classifier, transform.mean, transform.std, self.settings.device) as network:
            self.device = device_name(network.mean.device)
            self._measure(PLAIN, PLAIN, self.dataset, lambda *batch: _classified(network.plain_logits, *batch[:3]))
            self._measure(CLEAN, CLEAN, self.pixels, lambda *batch: _classified(network, *batch[:3]))
            check_same_accuracy(self.done.pop(PLAIN), self.done[CLEAN])
            yield self.result()
            for name, attack in self.attacks.items():
                kind = f"{name}-{fingerprint(repr(attack))}"
                self._measure(name, kind, self.pixels, self._attack_with(network, name, attack))
                if attack.follows_gradient and attack.largest_change != 0 and is_null(self.done[name]):
                    raise ValueError(
                        f"{attack.title} left all {len(self.dataset)} inputs as they were: the gradient of the loss "
                        "is zero on every one, which is no robustness; look for saturated logits or detached "
                        "operations in the classifier"
                    )
                yield self.result()

    def null_attacks(self) -> list[str]:
        """Names of the finished attacks that left every input as it was."""
        return [name for name in self._finished() if is_null(self.done[name])]

    def result(self) -> EvaluationResult:
        """What is finished so far; partial while an attack is missing, and on a subset."""
        about, measured, clean = self.dataset.images.description, self._finished(), self.done[CLEAN]
        metrics = {"top1_clean": accuracy(clean)}
        for name in measured:
            metrics |= attack_metrics(name, self.done[name])
        nulls = [null_note(name, self.done[name], clean) for name in self.null_attacks()]
        size = sum(parameter.numel() for parameter in self.model.classifier.parameters())
        return EvaluationResult(
            metrics=metrics,
            model=ModelSource(self.model.name, "classifier", self.revision, size),
            dataset=DataSource(
                about.name,
                about.split,
                sum(len(batch.correct) for batch in clean),
                about.fingerprint,
                f"{about.source}; {about.split_rule}",
                about.num_classes,
            ),
            protocol=self._protocol(measured),
            preprocessing=preprocessing(self.dataset),
            seed=self.seed,
            device=self.device,
            duration_s=time.perf_counter() - self.started,
            skipped_files=tuple(self.ledger.names()),
            partial=self.subset is not None or len(measured) < len(self.attacks),
            notes=(*nulls, *missing_note(self.attacks, measured)),
        )

    def _protocol(self, measured: Sequence[str]) -> ProtocolFacts:
        # Other numbers than the paper's must not stand in one table with the paper's rows.
        own = any(attack != ATTACKS.get(name) for name, attack in self.attacks.items())
        facts = {
            "library": "torchattacks",
            "inputs": "[0, 1], normalised inside the model",
            "goal": "untargeted",
            "batch_size": self.settings.batch_size,
            "indices": self.subset if self.subset is not None else "all",
            "attacks": {
                name: attack_facts(attack, self.done[name] if name in measured else None)
                for name, attack in self.attacks.items()
            },
        }
        return ProtocolFacts(f"{PROTOCOL}_own_settings" if own else PROTOCOL, facts)

    def _identity(self) -> dict[str, Any]:
        """What every batch depends on; the attacks' numbers name the folders of their batches."""
        about = self.dataset.images.description
        return {
            "weights": self.revision,
            "data": about.fingerprint or about.source,
            "split": about.split,
            "images": len(self.dataset),
            "subset": self.subset,
            "preprocessing": preprocessing(self.dataset),
            "batch size": self.settings.batch_size,
            "seed": self.seed,
        }

    def _finished(self) -> list[str]:
        return [name for name in self.attacks if len(self.done.get(name, ())) == len(self.batches)]

    def _attack_with(
        self, network: PixelClassifier, name: str, attack: AttackSettings
    ) -> Callable[[Tensor, Tensor, Tensor, int], AttackedBatch]:
        place = list(ATTACKS).index(name) if name in ATTACKS else len(ATTACKS)

        def attack_one(images: Tensor, labels: Tensor, indices: Tensor, number: int) -> AttackedBatch:
            # 31 bits: numpy's old generator takes 32, and some devices store them signed.
            seed = random_key(self.seed, place, number) & 0x7FFFFFFF
            return attack_batch(network, attack, images, labels, indices, seed)

        return attack_one

    def _measure(
        self,
        name: str,
        kind: str,
        dataset: EvaluationDataset,
        measure: Callable[[Tensor, Tensor, Tensor, int], AttackedBatch],
    ) -> None:
        """Take finished batches from the store and measure the others, under a progress bar with the accuracy."""
        finished = self.done[name] = []
        kept = {number: self.store.load(kind, number) for number in range(len(self.batches))}
        missing = [number for number, values in kept.items() if values is None]
        loader = iter(self._loader(dataset, missing))
        with tqdm(total=len(self.dataset), desc=name, unit="img", disable=not self.settings.progress) as bar:
            for number, positions in enumerate(self.batches):
                values = kept[number]
                if values is None:
                    batch = next(loader)
                    self.ledger.record(batch["bad_index"])
                    good = batch["bad_index"] < 0
                    indices = batch["index"][good]
                    empty = len(indices) == 0
                    arguments = (batch["pixel_values"][good], self.targets[indices], indices, number)
                    done = AttackedBatch((), ()) if empty else measure(*arguments)
                    self.store.save(kind, number, done.to_dict())
                else:
                    done = AttackedBatch.from_dict(values)
                    self.ledger.record(sorted(set(positions) - set(done.indices)))
                finished.append(done)
                bar.update(len(positions))
                if any(batch.correct for batch in finished):
                    bar.set_postfix({"top-1": f"{accuracy(finished):.1f} %"}, refresh=False)

    def _loader(self, dataset: EvaluationDataset, numbers: Sequence[int]) -> DataLoader[Any]:
        wanted = [self.batches[number] for number in numbers]
        return DataLoader(dataset, batch_sampler=wanted, num_workers=self.settings.num_workers if wanted else 0)


def check_same_accuracy(plain: Sequence[AttackedBatch], wrapped: Sequence[AttackedBatch]) -> None:
    """Check that the wrapper is the classifier: as many images right, with the normalisation outside and inside.

    Args:
        plain: Batches of the classifier on normalised images.
        wrapped: Batches of the wrapper on images in [0, 1].

    Raises:
        ValueError: If the numbers differ.
    """
    right = [sum(sum(batch.correct) for batch in batches) for batches in (plain, wrapped)]
    if right[0] != right[1]:
        raise ValueError(
            f"the plain classifier is right on {right[0]} images, the wrapped one on {right[1]}: the normalisation "
            "inside the wrapper is not that of the image processor, and attacks would be measured on another network"
        )


def _classified(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, indices: Tensor) -> AttackedBatch:
    with torch.no_grad():
        logits = network(images).cpu()
    return AttackedBatch(tuple(indices.tolist()), tuple((target_ranks(logits, labels) == 0).tolist()))
