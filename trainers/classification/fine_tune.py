"""Fine-tuning from its flags to the result: every weight adapts to labelled images (paper section 7.6)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from synco_hub.atomic_write import usual_modes
from synco_hub.evaluation import model_source
from synco_hub.evaluation.measurement import preprocessing
from synco_hub.hub.loading import describe_model_facts, load_processor
from synco_hub.hub.model_names import find_revision
from synco_hub.hub.run_checkpoints import find_newest_state
from synco_hub.models.image_processing import resize_image_processor
from synco_hub.results import EvaluationResult, ModelSource, ProtocolFacts, device_name
from synco_hub.weights_identity import hash_weights
from trainers.classification.arguments import FINE_TUNING_KINDS, FineTuningArguments
from trainers.classification.data import LabelledData, data_source, load_labelled_data
from trainers.classification.heads import check_fine_tunable, make_classifier
from trainers.classification.metrics import choose_final_metrics, find_last_errors, show_result
from trainers.classification.settings import SETTINGS_FILE, LabelledDataArguments
from trainers.classification.trainer import FineTuningTrainer
from trainers.command import parse_resumable, require_output_dir
from trainers.runs.checkpoints import WEIGHTS, describe_images, read_settings

logger = logging.getLogger(__name__)

PROTOCOL = "fine_tune"


def fine_tune(data_arguments: LabelledDataArguments, arguments: FineTuningArguments) -> EvaluationResult:
    """Fine-tune a model, and leave the classifier and the result in the output directory."""
    started = time.perf_counter()
    base = find_newest_state(data_arguments.model)
    check_fine_tunable(base)
    revision = find_revision(base, data_arguments.model_revision)
    processor = load_processor(base, revision.commit)
    if arguments.image_size is not None:
        processor = resize_image_processor(processor, arguments.image_size)
    resumes = arguments.resume or arguments.resume_from_checkpoint
    recorded = read_settings(Path(str(arguments.output_dir)), settings_file=SETTINGS_FILE) if resumes else None
    data = load_labelled_data(data_arguments, processor, arguments.seed, "fine-tuning", recorded)
    set_seed(arguments.seed)
    model = make_classifier(
        base, data.train_targets, arguments.classifier_dropout, revision.commit, arguments.image_size
    )
    start = model_source(model, data_arguments.model, revision.words)
    facts = describe_model_facts(model, processor)
    logger.warning("%s: %s", data_arguments.model, facts)
    directory = Path(str(arguments.output_dir))
    if (arguments.resume or arguments.resume_from_checkpoint) and arguments.base_learning_rate is None:
        # What was chosen when the run began, by whatever version.
        arguments.base_learning_rate = read_settings(directory, settings_file=SETTINGS_FILE).get("base_learning_rate")
    trainer = FineTuningTrainer(model, arguments, data.train, data.test, data.test_targets, processing_class=processor)
    settings = _describe_settings(arguments, data)
    trainer.claim(
        directory,
        {
            "protocol": PROTOCOL,
            "model": data_arguments.model,
            "model_revision": data_arguments.model_revision,
            WEIGHTS: start.weights,
            "train": describe_images(data.train.images),
            "test": describe_images(data.test.images),
            "seed": arguments.seed,
            **settings,
        },
    )
    trainer.train_and_measure()
    result = _build_result(start, arguments, data, trainer, settings, time.perf_counter() - started)
    if trainer.is_world_process_zero():
        network: Any = trainer.accelerator.unwrap_model(trainer.model)
        with usual_modes(directory):
            network.save_pretrained(directory)
            processor.save_pretrained(directory)
        result.save(arguments.output or directory / f"{PROTOCOL}.json")
    return result


def _describe_settings(arguments: FineTuningArguments, data: LabelledData) -> dict[str, Any]:
    """What changes the numbers, as plain data."""
    multi_label = data.train_targets.multi_label
    return {
        "epochs": arguments.num_train_epochs,
        "max_steps": arguments.max_steps,
        "warmup_epochs": arguments.warmup_epochs,
        "schedule": "linear warm-up from 0, cosine to 0, per step",
        "optimizer": "SGD",
        "momentum": arguments.momentum,
        "weight_decay": arguments.weight_decay,
        "learning_rate": arguments.learning_rate,
        "base_learning_rate": None if arguments.given_learning_rate is not None else arguments.base_learning_rate,
        "learning_rate_rule": "base x global batch / 512",
        "global_batch_size": arguments.global_batch_size,
        "classifier_dropout": arguments.classifier_dropout,
        "max_grad_norm": arguments.max_grad_norm,
        "label_smoothing": 0.0 if multi_label else arguments.label_smoothing,
        "loss": "binary cross-entropy" if multi_label else "cross-entropy",
        "augmentation": repr(data.train.transform),
        **({} if arguments.layer_decay == 1 else {"layer_decay": arguments.layer_decay}),
        **({} if arguments.image_size is None else {"image_size": arguments.image_size}),
    }


def _build_result(
    start: ModelSource,
    arguments: FineTuningArguments,
    data: LabelledData,
    trainer: FineTuningTrainer,
    settings: dict[str, Any],
    duration: float,
) -> EvaluationResult:
    metrics, choice = choose_final_metrics(trainer.kept_history, ("",), data.test_targets.primary_metric)
    tested = data_source(data.test.images, len(trainer.eval_ledger))
    return EvaluationResult(
        metrics=metrics,
        standard_errors=find_last_errors(metrics, tested.count, data.test_targets.real),
        # What was measured, and what a card beside it is about: the network that is saved.
        model=replace(start, weights=hash_weights(trainer.accelerator.unwrap_model(trainer.model))),
        dataset=tested,
        training_dataset=data_source(data.train.images, len(trainer.train_ledger)),
        protocol=ProtocolFacts(
            PROTOCOL,
            {
                **settings,
                # What a run is compared with when it goes on keeps its word for both.
                **({} if arguments.given_learning_rate is None else {"learning_rate_rule": "as given"}),
                "backbone_weights": start.weights,
                "best_epoch": choice.best_epoch,
                "epochs_trained": choice.last_epoch,
                **trainer.describe_training(),
            },
        ),
        preprocessing=preprocessing(data.test),
        seed=arguments.seed,
        device=device_name(arguments.device),
        duration_s=duration,
        skipped_files=(*trainer.train_ledger.names(), *trainer.eval_ledger.names()),
        partial=trainer.is_partial,
        notes=trainer.notes,
    )


def run(argv: Sequence[str]) -> None:
    """Train and measure as the flags say, and show the metrics."""
    data, arguments = parse_resumable(FINE_TUNING_KINDS, argv, SETTINGS_FILE)
    require_output_dir(argv)
    result = fine_tune(data, arguments)
    if arguments.process_index == 0:
        show_result(result)
