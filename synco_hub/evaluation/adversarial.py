"""Accuracy under attack (Table 14): each attack on each batch, kept as it finishes, and one result of them all.

Source: paper, section 8.3: linear classifiers trained on clean images, untargeted attacks, inputs in [0, 1].
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from synco_hub.data import EvaluationDataset, UnreadableImages
from synco_hub.data.class_labels import number_by_head
from synco_hub.data.image_dataset import fingerprint
from synco_hub.data.samplers import derive_random_key
from synco_hub.data.subsets import sample_images
from synco_hub.evaluation.attacks import (
    ATTACKS,
    UNCHANGED,
    AttackedBatch,
    AttackSettings,
    AutoAttack,
    PixelClassifier,
    attack_batch,
    choose_attacks,
    make_attackable,
    parse_fraction,
    require_library,
)
from synco_hub.evaluation.classification import check_same_classes, classification_targets
from synco_hub.evaluation.measurement import (
    EvaluatedModel,
    data_source,
    describe_classifier,
    find_standard_errors,
    format_metrics,
    open_split,
    preprocessing,
    save_each,
)
from synco_hub.evaluation.resume import ResumableFolder, hash_images, identify_model
from synco_hub.metrics import target_ranks
from synco_hub.output_paths import check_output_folder
from synco_hub.results import EvaluationResult, ProtocolFacts, device_name, library_versions
from synco_hub.settings import AdversarialSettings, DatasetChoice, ForwardSettings

PROTOCOL = "adversarial"
# Of AutoAttack: Croce and Hein, "Reliable evaluation of adversarial robustness" (2020).
_ORIGINAL_STEPS = 100
CLEAN, PLAIN = "clean", "clean without wrapper"
Batches = Sequence[AttackedBatch]
BatchMeasure = Callable[[Tensor, Tensor, int], AttackedBatch]


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: AdversarialSettings, output: Path | None = None
) -> EvaluationResult:
    """Attack a classifier on the test split; finished batches are kept beside the result, which each attack renews."""
    attacks = choose_attacks(settings.attacks, None if settings.epsilon is None else parse_fraction(settings.epsilon))
    require_library()
    folder = None if output is None else output.with_name(f"{output.stem}.batches")
    if folder is not None:
        check_output_folder(folder, "--output")
    whole = open_split(data, "test", model)
    images, subset = sample_images(whole.images, settings.num_images, settings.seed)
    run = AdversarialRun(model, EvaluationDataset(images, whole.transform), attacks, folder, settings, subset)
    return save_each(run.results(), output)


def format_table(result: EvaluationResult) -> str:
    """Accuracy on clean images and under each attack."""
    top1 = {name: value for name, value in result.metrics.items() if name.startswith("top1_")}
    return format_metrics(top1, 16, result.standard_errors)


def list_null_attacks(result: EvaluationResult) -> list[str]:
    """Names of the finished attacks that left every input as it was: no measurement of robustness."""
    attacks: Mapping[str, Mapping[str, Any]] = result.protocol.parameters["attacks"]
    return [name for name, facts in attacks.items() if facts.get("null")]


class AdversarialRun:
    """One classifier, one set of images, some attacks; interrupted anywhere, the same call goes on."""

    def __init__(
        self,
        model: EvaluatedModel,
        dataset: EvaluationDataset,
        attacks: Mapping[str, AttackSettings],
        folder: Path | None = None,
        settings: AdversarialSettings | None = None,
        subset: Sequence[int] | None = None,
    ) -> None:
        number_by_head(dataset.images, model.class_names)
        targets = classification_targets(dataset.images, "an attack")
        if targets.multi_label:
            raise ValueError(f"{dataset.images.description.name} has several classes an image: attacks need one")
        check_same_classes(model.class_names, targets.class_names)
        check_classes(attacks, len(targets.class_names))
        self.model, self.dataset, self.attacks = model, dataset, dict(attacks)
        self.settings = settings or AdversarialSettings()
        self.subset = None if subset is None else list(subset)
        self.targets = targets.values
        self.identity = identify_model(model.network)
        earlier = {"data": dataset.images.description.earlier_fingerprint}
        self.batches = AttackedBatches(dataset, ResumableFolder(folder, self._facts(), earlier), self.settings)
        self.done: dict[str, list[AttackedBatch]] = {}
        self.device = "cpu"
        self.started = time.perf_counter()

    def results(self) -> Iterator[EvaluationResult]:
        """Attack, and yield the result so far after the clean images and after each attack."""
        transform = self.dataset.transform
        pixels = EvaluationDataset(self.dataset.images, transform.without_normalisation())
        with make_attackable(self.model.network, transform.mean, transform.std, self.settings.device) as network:
            self.device = device_name(network.mean.device)
            plain = self.batches.measured(PLAIN, PLAIN, self.dataset, self._classify_with(network.plain_logits))
            self.done[CLEAN] = self.batches.measured(CLEAN, CLEAN, pixels, self._classify_with(network))
            check_same_accuracy(plain, self.done[CLEAN])
            yield self.result()
            for name, attack in self.attacks.items():
                kind = f"{name}-{fingerprint(repr(attack))}"
                self.done[name] = self.batches.measured(name, kind, pixels, self._attack_with(network, name, attack))
                if attack.follows_gradient and attack.largest_change != 0 and is_null(attack, self.done[name]):
                    raise ValueError(
                        f"{attack.title} left all {len(self.dataset)} inputs as they were: the gradient of the loss "
                        "is zero on every one, which is no robustness; look for saturated logits or detached "
                        "operations in the classifier"
                    )
                yield self.result()

    def result(self) -> EvaluationResult:
        """What is finished so far; partial while an attack is missing, and on a subset."""
        measured, clean = self._measured(), self.done[CLEAN]
        metrics = {"top1_clean": accuracy(clean)}
        for name in measured:
            metrics |= attack_metrics(name, self.attacks[name], self.done[name])
        unchanged = [describe_unchanged(name, self.attacks[name], self.done[name], clean) for name in measured]
        return EvaluationResult(
            metrics=metrics,
            model=describe_classifier(self.model, self.identity["weights"]),
            dataset=data_source(self.dataset.images.description, sum(len(batch.correct) for batch in clean)),
            protocol=self._protocol(measured),
            preprocessing=preprocessing(self.dataset),
            standard_errors=find_standard_errors(metrics, _count(clean)),
            versions=library_versions("torchattacks"),
            seed=self.settings.seed,
            device=self.device,
            duration_s=time.perf_counter() - self.started,
            skipped_files=tuple(self.batches.ledger.names()),
            partial=self.subset is not None or len(measured) < len(self.attacks),
            notes=(*filter(None, unchanged), *describe_missing_attacks(self.attacks, measured)),
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
            "seed": self.settings.seed,
        }

    def _measured(self) -> list[str]:
        return [name for name in self.attacks if name in self.done]

    def _attack_with(self, network: PixelClassifier, name: str, attack: AttackSettings) -> BatchMeasure:
        place = list(ATTACKS).index(name) if name in ATTACKS else len(ATTACKS)

        def attack_one(images: Tensor, indices: Tensor, number: int) -> AttackedBatch:
            # 31 bits: numpy's old generator takes 32, and some devices store them signed.
            seed = derive_random_key(self.settings.seed, place, number) & 0x7FFFFFFF
            return attack_batch(network, attack, images, self.targets[indices], indices, seed)

        return attack_one

    def _classify_with(self, network: Callable[[Tensor], Tensor]) -> BatchMeasure:
        def classify(images: Tensor, indices: Tensor, number: int) -> AttackedBatch:
            with torch.no_grad():
                logits = network(images).cpu()
            right = target_ranks(logits, self.targets[indices]) == 0
            return AttackedBatch(tuple(indices.tolist()), tuple(right.tolist()))

        return classify


def check_classes(attacks: Mapping[str, AttackSettings], num_classes: int) -> None:
    """Refuse attacks that need more classes than a classifier has, before any of them runs."""
    unfit = {name: attack for name, attack in attacks.items() if num_classes < attack.least_classes}
    for attack in unfit.values():
        others = ",".join(name for name in attacks if name not in unfit) or "others"
        raise ValueError(
            f"{attack.library_name} on {num_classes} classes: it compares the {attack.least_classes} largest logits; "
            f"leave it out (--attacks {others}), or take a classifier of {attack.least_classes} classes or more"
        )


def check_same_accuracy(plain: Sequence[AttackedBatch], wrapped: Sequence[AttackedBatch]) -> None:
    """Refuse a wrapper that is not the classifier: other numbers right with the normalisation inside than outside."""
    right = [sum(sum(batch.correct) for batch in batches) for batches in (plain, wrapped)]
    if right[0] != right[1]:
        raise ValueError(
            f"the plain classifier is right on {right[0]} images, the wrapped one on {right[1]}: the normalisation "
            "inside the wrapper is not that of the image processor, and attacks would be measured on another network"
        )


class AttackedBatches:
    """The batches of a data set, each measured once; finished ones are kept in a folder, so that a killed run goes on.

    Attributes:
        positions: Positions in the data set of the images of each batch.
        ledger: The unreadable images.
    """

    def __init__(self, dataset: EvaluationDataset, folder: ResumableFolder, settings: ForwardSettings) -> None:
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
        """
        kept = [self._kept(kind, number) for number in range(len(self.positions))]
        missing = [positions for positions, values in zip(self.positions, kept, strict=True) if values is None]
        workers = self._settings.num_workers if missing else 0
        loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=missing, num_workers=workers)
        fresh, found = iter(loader), list[AttackedBatch]()
        with tqdm(total=len(dataset), desc=name, unit="img", disable=not self._settings.progress) as bar:
            for number, (positions, values) in enumerate(zip(self.positions, kept, strict=True)):
                if values is None:
                    # Before the measurement: images that change while it runs are others than those it names.
                    contents = self._contents(number) if self._folder.path else ""
                    found.append(self._fresh(next(fresh), number, measure))
                    self._folder.save_part(_part(kind, number), contents, found[-1].to_dict())
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
        name = _part(kind, number)
        return self._folder.load_part(name, self._contents(number)) if self._folder.has(name) else None

    def _contents(self, number: int) -> str:
        # Once for all attacks: what changes while they run is not looked for.
        if number not in self._known_contents:
            self._known_contents[number] = hash_images(self._images, self.positions[number])
        return self._known_contents[number]


def _part(kind: str, number: int) -> str:
    return f"{kind}/batch-{number:06d}.json"


def accuracy(batches: Batches) -> float:
    """Top-1 accuracy in percent."""
    count = _count(batches)
    if count == 0:
        raise ValueError("no image could be read: an accuracy needs at least one; check the files of the data set")
    return 100.0 * sum(sum(batch.correct) for batch in batches) / count


def is_null(attack: AttackSettings, batches: Batches) -> bool:
    """Whether an attack did nothing: every input is as it was, and not because it withstood one that was tried."""
    tried = attack.returns_failures_unchanged and attack.largest_change != 0
    return _left_all(batches) and not (tried and any(any(batch.correct) for batch in batches))


def _left_all(batches: Batches) -> bool:
    """Whether every input is as it was, up to the rounding of floats."""
    return all(max(batch.linf, default=0.0) <= UNCHANGED for batch in batches)


def attack_metrics(name: str, attack: AttackSettings, batches: Batches) -> dict[str, float]:
    """Metrics of one attack, whose name ends theirs.

    Returns:
        ``top1`` in percent, missing for a null attack, whose accuracy would read like robustness; mean and largest
        ℓ∞ and ℓ2 change for pixels in [0, 1]; forwards and seconds an image.
    """
    count = _count(batches)
    linf = [value for batch in batches for value in batch.linf]
    l2 = [value for batch in batches for value in batch.l2]
    measured = {
        f"linf_mean_{name}": sum(linf) / count,
        f"linf_max_{name}": max(linf),
        f"l2_mean_{name}": sum(l2) / count,
        f"l2_max_{name}": max(l2),
        f"forwards_per_image_{name}": forwards(batches) / count,
        f"seconds_per_image_{name}": sum(batch.seconds for batch in batches) / count,
    }
    return measured if is_null(attack, batches) else {f"top1_{name}": accuracy(batches), **measured}


def attack_facts(attack: AttackSettings, batches: Batches | None) -> dict[str, Any]:
    """What a result says about an attack; its batches are None while it is not finished."""
    facts: dict[str, Any] = {"parameters": asdict(attack), "library defaults": list(attack.from_library)}
    if isinstance(attack, AutoAttack):
        facts |= {"steps": _read_library_steps(), "steps of the original": _ORIGINAL_STEPS}
    if batches is not None:
        changed = sum(value > UNCHANGED for batch in batches for value in batch.linf)
        facts |= {"null": is_null(attack, batches), "forwards": forwards(batches), "changed images": changed}
    return facts


def _read_library_steps() -> dict[str, int]:
    """Steps of each part of AutoAttack, which the library builds with its own defaults."""
    library = require_library()
    parts = ("APGD", "APGDT", "FAB")
    return {name: inspect.signature(getattr(library, name)).parameters["steps"].default for name in parts}


def forwards(batches: Batches) -> int:
    """Images that an attack sent through the classifier."""
    return sum(batch.images_forwarded for batch in batches)


def describe_unchanged(name: str, attack: AttackSettings, batches: Batches, clean: Batches) -> str:
    """One sentence about an attack that left every input as it was, none about others."""
    if not _left_all(batches):
        return ""
    if not is_null(attack, batches):
        tried = f"after {forwards(batches)} images forwarded"
        return f"{name} fooled none of the images, {tried}: it returns those that withstand as they were"
    why = ""
    if not any(any(batch.correct) for batch in clean):
        why = " (no clean image is classified correctly, so there was nothing to attack)"
    elif name == "cw":
        why = " (the paper's constant of 1e-4 with the library's early stop can do that)"
    return (
        f"{name} is null: it left all {_count(batches)} inputs as they were after {forwards(batches)} images "
        f"forwarded{why}; no accuracy is given for it"
    )


def describe_missing_attacks(attacks: Mapping[str, AttackSettings], measured: Sequence[str]) -> list[str]:
    """A sentence naming the attacks that are not finished; none if all are."""
    missing = [name for name in attacks if name not in measured]
    return [f"not finished: {', '.join(missing)}"] if missing else []


def _count(batches: Batches) -> int:
    return sum(len(batch.correct) for batch in batches)
