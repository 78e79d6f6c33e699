"""A linear probe from its flags to the result: heads of every learning rate on one frozen network (section 7.5)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from synco_hub.evaluation import model_source
from synco_hub.evaluation.measurement import preprocessing
from synco_hub.feature_pooling import find_feature_network, find_feature_rule
from synco_hub.features import Features, extract_features
from synco_hub.hub.loading import LinearHead, describe_model_facts, load_model, save_classifier
from synco_hub.hub.model_names import Revision, find_revision
from synco_hub.results import EvaluationResult, ProtocolFacts, device_name
from synco_hub.settings import ExtractionSettings
from synco_hub.weights_identity import hash_weights
from trainers.classification.arguments import LINEAR_PROBE_KINDS, LinearProbeArguments
from trainers.classification.data import FeatureDataset, LabelledData, data_source, load_labelled_data
from trainers.classification.heads import LinearHeads
from trainers.classification.metrics import choose_final_metrics, find_last_errors, show_result
from trainers.classification.settings import SETTINGS_FILE, LabelledDataArguments
from trainers.classification.trainer import LinearProbeTrainer
from trainers.command import parse_resumable, require_output_dir
from trainers.runs.checkpoints import WEIGHTS, describe_images, read_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """Everything a run needs once model and data are open."""

    data_arguments: LabelledDataArguments
    arguments: LinearProbeArguments
    revision: Revision
    model: Any
    processor: Any
    data: LabelledData

    @property
    def protocol(self) -> str:
        """The result's protocol; cached features are another one."""
        return "linear_probe_cached" if self.arguments.cached_features else "linear_probe"

    @property
    def base_rates(self) -> tuple[float, ...]:
        """Base learning rates of the heads."""
        return self.arguments.base_rates(self.data_arguments.dataset)

    def settings(self) -> dict[str, Any]:
        """What changes the numbers, as plain data."""
        arguments = self.arguments
        return {
            "epochs": arguments.num_train_epochs,
            "max_steps": arguments.max_steps,
            "warmup_epochs": arguments.warmup_epochs,
            "schedule": "linear warm-up from 0, cosine to 0, per step",
            "optimizer": "SGD",
            "momentum": arguments.momentum,
            "weight_decay": arguments.weight_decay,
            "label_smoothing": 0.0 if self.data.train_targets.multi_label else arguments.label_smoothing,
            "loss": "binary cross-entropy" if self.data.train_targets.multi_label else "cross-entropy",
            "base_learning_rates": list(self.base_rates),
            "learning_rate_rule": "base x global batch / 512",
            "global_batch_size": arguments.global_batch_size,
            "augmentation": "none" if arguments.cached_features else repr(self.data.train.transform),
            "backbone": "frozen, eval mode",
        }


def linear_probe(data_arguments: LabelledDataArguments, arguments: LinearProbeArguments) -> EvaluationResult:
    """Probe a model, and leave the classifier and the result in the output directory."""
    started = time.perf_counter()
    revision = find_revision(data_arguments.model, data_arguments.model_revision)
    model, processor = load_model(data_arguments.model, revision.commit)
    logger.warning("%s: %s", data_arguments.model, describe_model_facts(model, processor))
    resumes = arguments.resume or arguments.resume_from_checkpoint
    recorded = read_settings(Path(str(arguments.output_dir)), settings_file=SETTINGS_FILE) if resumes else None
    data = load_labelled_data(data_arguments, processor, arguments.seed, "linear probing", recorded)
    probe = Probe(data_arguments, arguments, revision, model, processor, data)
    trainer, skipped = _build_trainer(probe)
    directory = Path(str(arguments.output_dir))
    trainer.claim(directory, _describe_run(probe))
    trainer.train_and_measure()
    result, chosen = _build_result(probe, trainer, skipped, time.perf_counter() - started)
    if trainer.is_world_process_zero():
        weight, bias = trainer.accelerator.unwrap_model(trainer.model).head(chosen)
        targets = data.train_targets
        head = LinearHead(weight, bias, targets.class_names, targets.multi_label)
        weights = save_classifier(directory, data_arguments.model, model, processor, head, revision.commit)
        # The number is that of backbone and head together, which is what a card beside them is about.
        result = replace(result, model=replace(result.model, weights=weights))
        result.save(arguments.output or directory / f"{probe.protocol}.json")
    return result


def _describe_run(probe: Probe) -> dict[str, Any]:
    return {
        "protocol": probe.protocol,
        "model": probe.data_arguments.model,
        "model_revision": probe.data_arguments.model_revision,
        WEIGHTS: hash_weights(find_feature_network(probe.model)),
        "train": describe_images(probe.data.train.images),
        "test": describe_images(probe.data.test.images),
        "seed": probe.arguments.seed,
        **probe.settings(),
    }


def _build_trainer(probe: Probe) -> tuple[LinearProbeTrainer, tuple[str, ...]]:
    """The trainer, and what could not be read if features were cached."""
    arguments, data, rule = probe.arguments, probe.data, find_feature_rule(probe.model)
    train: Any = data.train
    test: Any = data.test
    test_targets, backbone = data.test_targets, probe.model
    skipped: tuple[str, ...] = ()
    if arguments.cached_features:
        train_features, test_features, skipped = _compute_cached_features(probe)
        train = FeatureDataset(train_features.values, data.train_targets.values[train_features.indices])
        test_targets = test_targets.take(test_features.indices)
        test = FeatureDataset(test_features.values, test_targets.values)
        dim, backbone = train_features.values.shape[1], None
    else:
        dim = _compute_first_features(probe).values.shape[1]
    set_seed(arguments.seed)
    heads = LinearHeads(dim, len(test_targets.class_names), len(probe.base_rates), arguments.label_smoothing)
    return LinearProbeTrainer(heads, arguments, train, test, test_targets, backbone, rule, probe.base_rates), skipped


def _extraction_settings(arguments: LinearProbeArguments) -> ExtractionSettings:
    return ExtractionSettings(
        batch_size=arguments.per_device_eval_batch_size,
        num_workers=arguments.dataloader_num_workers,
        device=str(arguments.device),
        max_bad_fraction=arguments.max_bad_fraction,
        progress=not arguments.disable_tqdm,
    )


def _compute_first_features(probe: Probe) -> Features:
    """Features of one test batch: a model without a feature, or with NaN ones, is found before the training."""
    batch = probe.arguments.per_device_eval_batch_size
    few = _FirstImages(probe.data.test, min(batch, len(probe.data.test)))
    settings = replace(_extraction_settings(probe.arguments), num_workers=0, progress=False, max_bad_fraction=1.0)
    return extract_features(probe.model, few, settings)


class _FirstImages:
    """The first images of a data set."""

    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset, self.count = dataset, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def name(self, index: int) -> str:
        """How reports name one image."""
        return str(self.dataset.name(index))


def _compute_cached_features(probe: Probe) -> tuple[Features, Features, tuple[str, ...]]:
    """Features of the centre crops of both splits, and the names of what could not be read."""
    test = probe.data.test
    train = type(test)(probe.data.train.images, test.transform)
    settings = _extraction_settings(probe.arguments)
    train_features, test_features = (extract_features(probe.model, split, settings) for split in (train, test))
    names = [train.name(index) for index in train_features.skipped.tolist()]
    return train_features, test_features, (*names, *(test.name(index) for index in test_features.skipped.tolist()))


def _build_result(
    probe: Probe, trainer: LinearProbeTrainer, skipped: tuple[str, ...], duration: float
) -> tuple[EvaluationResult, int]:
    """The result, and which head is the chosen one."""
    targets, rates = probe.data.test_targets, [f"_lr{rate:g}" for rate in probe.base_rates]
    metrics, choice = choose_final_metrics(trainer.kept_history, rates, targets.primary_metric)
    backbone = model_source(probe.model, probe.data_arguments.model, probe.revision.words)
    notes = []
    if len(rates) > 1:
        notes.append("the learning rate was chosen on the test split, as the grid search of the paper's section 7.5")
    notes += trainer.notes
    if probe.arguments.cached_features:
        notes.append("cached features of centre crops, no augmentation: not the paper's protocol")
    test_bad, train_bad = trainer.eval_ledger, trainer.train_ledger
    tested = data_source(probe.data.test.images, len(test_bad) or _count_skipped(probe.data.test, skipped))
    return EvaluationResult(
        metrics=metrics,
        standard_errors=find_last_errors(metrics, tested.count, trainer.eval_targets.real),
        model=backbone,
        dataset=tested,
        training_dataset=data_source(probe.data.train.images, len(train_bad)),
        protocol=ProtocolFacts(
            probe.protocol,
            {
                **probe.settings(),
                "backbone_weights": backbone.weights,
                "chosen_base_learning_rate": probe.base_rates[choice.classifier],
                "best_epoch": choice.best_epoch,
                "epochs_trained": choice.last_epoch,
                **trainer.describe_training(),
            },
        ),
        preprocessing=preprocessing(probe.data.test),
        seed=probe.arguments.seed,
        device=device_name(probe.arguments.device),
        duration_s=duration,
        skipped_files=(*skipped, *train_bad.names(), *test_bad.names()),
        partial=trainer.is_partial,
        notes=tuple(notes),
    ), choice.classifier


def _count_skipped(test: Any, skipped: tuple[str, ...]) -> int:
    names = set(skipped)
    return sum(test.name(index) in names for index in range(len(test))) if names else 0


def run(argv: Sequence[str]) -> None:
    """Train and measure as the flags say, and show the metrics."""
    data, arguments = parse_resumable(LINEAR_PROBE_KINDS, argv, SETTINGS_FILE)
    require_output_dir(argv)
    result = linear_probe(data, arguments)
    if arguments.process_index == 0:
        show_result(result)
