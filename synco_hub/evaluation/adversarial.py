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

from synco_hub.data import EvaluationDataset
from synco_hub.data.corruptions import pixel_transform
from synco_hub.data.image_dataset import fingerprint
from synco_hub.data.random_keys import random_key
from synco_hub.evaluation.attacks.adversarial_report import (
    accuracy,
    attack_facts,
    attack_metrics,
    is_null,
    missing_note,
    null_note,
)
from synco_hub.evaluation.attacks.attack_settings import ATTACKS, AttackSettings
from synco_hub.evaluation.attacks.attacked_batches import AttackedBatches, BatchMeasure
from synco_hub.evaluation.attacks.attacks import AttackedBatch, attack_batch
from synco_hub.evaluation.attacks.pixel_classifier import PixelClassifier, attackable
from synco_hub.evaluation.classification_targets import check_same_classes, classification_targets
from synco_hub.evaluation.measurement.measured_split import classifier_source, data_source, preprocessing
from synco_hub.evaluation.measurement.model_identity import model_identity
from synco_hub.features import ExtractionSettings
from synco_hub.metrics import target_ranks
from synco_hub.results import EvaluationResult, ProtocolFacts, device_name

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
        self.identity = model_identity(model.classifier)
        self.batches = AttackedBatches(dataset, folder, self._facts(), self.settings)
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
        pixels = EvaluationDataset(self.dataset.images, pixel_transform(transform))
        with attackable(self.model.classifier, transform.mean, transform.std, self.settings.device) as network:
            self.device = device_name(network.mean.device)
            plain = self.batches.measured(PLAIN, PLAIN, self.dataset, self._classify_with(network.plain_logits))
            self.done[CLEAN] = self.batches.measured(CLEAN, CLEAN, pixels, self._classify_with(network))
            check_same_accuracy(plain, self.done[CLEAN])
            yield self.result()
            for name, attack in self.attacks.items():
                kind = f"{name}-{fingerprint(repr(attack))}"
                self.done[name] = self.batches.measured(name, kind, pixels, self._attack_with(network, name, attack))
                if attack.follows_gradient and attack.largest_change != 0 and is_null(self.done[name]):
                    raise ValueError(
                        f"{attack.title} left all {len(self.dataset)} inputs as they were: the gradient of the loss "
                        "is zero on every one, which is no robustness; look for saturated logits or detached "
                        "operations in the classifier"
                    )
                yield self.result()

    def null_attacks(self) -> list[str]:
        """Names of the finished attacks that left every input as it was."""
        return [name for name in self._measured() if is_null(self.done[name])]

    def result(self) -> EvaluationResult:
        """What is finished so far; partial while an attack is missing, and on a subset."""
        measured, clean = self._measured(), self.done[CLEAN]
        metrics = {"top1_clean": accuracy(clean)}
        for name in measured:
            metrics |= attack_metrics(name, self.done[name])
        nulls = [null_note(name, self.done[name], clean) for name in self.null_attacks()]
        return EvaluationResult(
            metrics=metrics,
            model=classifier_source(self.model.classifier, self.model.name, self.identity["weights"]),
            dataset=data_source(self.dataset.images.description, sum(len(batch.correct) for batch in clean)),
            protocol=self._protocol(measured),
            preprocessing=preprocessing(self.dataset),
            seed=self.seed,
            device=self.device,
            duration_s=time.perf_counter() - self.started,
            skipped_files=tuple(self.batches.ledger.names()),
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

    def _facts(self) -> dict[str, Any]:
        """What every batch depends on beside its images; the attacks' numbers name the folders of their batches."""
        about = self.dataset.images.description
        return {
            **self.identity,
            "data": about.fingerprint,
            "split": about.split,
            "images": len(self.dataset),
            "subset": self.subset,
            "preprocessing": preprocessing(self.dataset),
            "batch size": self.settings.batch_size,
            "seed": self.seed,
        }

    def _measured(self) -> list[str]:
        return [name for name in self.attacks if name in self.done]

    def _attack_with(self, network: PixelClassifier, name: str, attack: AttackSettings) -> BatchMeasure:
        place = list(ATTACKS).index(name) if name in ATTACKS else len(ATTACKS)

        def attack_one(images: Tensor, indices: Tensor, number: int) -> AttackedBatch:
            # 31 bits: numpy's old generator takes 32, and some devices store them signed.
            seed = random_key(self.seed, place, number) & 0x7FFFFFFF
            return attack_batch(network, attack, images, self.targets[indices], indices, seed)

        return attack_one

    def _classify_with(self, network: Callable[[Tensor], Tensor]) -> BatchMeasure:
        def classify(images: Tensor, indices: Tensor, number: int) -> AttackedBatch:
            with torch.no_grad():
                logits = network(images).cpu()
            right = target_ranks(logits, self.targets[indices]) == 0
            return AttackedBatch(tuple(indices.tolist()), tuple(right.tolist()))

        return classify


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
