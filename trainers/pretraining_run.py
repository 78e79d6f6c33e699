"""A pretraining run from its flags to the finished directory."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed

from synco_hub.atomic_write import usual_modes
from synco_hub.data import ImageDataset, StreamedImages, StreamSettings, TwoViewDataset, open_stream
from synco_hub.data.image_folder import PRETRAINING
from synco_hub.data.loading import describe_pretraining_images, load_pretraining_images
from synco_hub.data.views.transform import make_two_view_transform
from synco_hub.hub.card.model_card import write_card
from synco_hub.models import SynCoConfig, image_processor
from synco_hub.results import library_versions
from trainers.knn_callback import KnnCallback, load_knn_data
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer
from trainers.recipe import PretrainingRun, parse
from trainers.runs.checkpoints import (
    SETTINGS_FILE,
    SUMMARY_FILE,
    claim_directory,
    describe_images,
    read_settings,
    run_on_main_process,
    write_json,
)
from trainers.runs.stream_loading import StreamedData
from trainers.runs.training_curve import CURVE_FILE, save_training_curve
from trainers.settings import BackboneArguments, DataArguments, PretrainingSettings

logger = logging.getLogger(__name__)


def pretrain(run: PretrainingRun) -> dict[str, Any]:
    """Pretrain, and leave the online model, its image processor, card and summary in the output directory."""
    config = build_config(run.backbone, run.settings)
    set_seed(run.training.seed)
    model = SynCoForPreTraining(config)
    resumes = run.training.resume or run.training.resume_from_checkpoint
    recorded_data = _read_recorded_data(run.training) if resumes else None
    stream, images = open_images(run.data, config.image_size, run.training.seed, recorded_data)
    every_epochs, knn = run.training.knn_every_epochs, None
    processes = (run.training.process_index, run.training.world_size)
    if every_epochs is not None:
        knn = run_on_main_process(lambda: load_knn_data(run.data, config.image_size or 224, images), *processes)
    transform = make_two_view_transform(run.training.augment_on, config.image_size or 224)
    views = TwoViewDataset(images, transform, seed=run.training.seed)
    trainer = SynCoTrainer(
        model, run.training, views, stream=stream, processing_class=image_processor(config.image_size or 224)
    )
    if every_epochs is not None and knn is not None:
        trainer.add_callback(KnnCallback(trainer, knn.bank, knn.queries, every_epochs))
    directory = Path(str(run.training.output_dir))
    recorded = run.recorded(config, images.description.to_dict())
    recorded["flags"] = list(run.training.given_flags)
    # A resumed run has other flags once it goes on with them, and not if it is refused or at its end.
    held = read_settings(directory, ("training", "flags")) if trainer.resumes else {}

    def claim() -> None:
        recorded["data"] = describe_images(images, None if stream is None else stream.source)
        claim_directory(directory, {**recorded, **held}, trainer.resumes)

    run_on_main_process(claim, *processes)
    trainer.at_begin.works.append(lambda: _record_what_is_held(directory, trainer, recorded))
    if stream is None and trainer.is_world_process_zero():
        logger.warning("%s", describe_pretraining_images(images))
    trainer.train()
    if len(trainer.ledger) and trainer.is_world_process_zero():
        logger.warning("%s", trainer.ledger.summary())
    _exit_if_interrupted(trainer)
    trainer.refuse_broken_weights()
    summary = {
        "steps": trainer.state.global_step,
        "seconds": round(trainer.seconds, 3),
        "last_log": next((entry for entry in reversed(trainer.state.log_history) if "loss" in entry), {}),
        "knn": [entry for entry in trainer.state.log_history if any(name.startswith("knn_") for name in entry)],
        "knn_data": None if knn is None else knn.descriptions(),
        "skipped_files": trainer.ledger.names(),
        "data": recorded["data"],
    }
    if trainer.is_world_process_zero():
        _save_finished(directory, trainer.unwrapped_model, read_settings(directory), summary)
        if summary["last_log"]:
            title = f"{run.settings.method} on {run.backbone.backbone}, {run.data.dataset}"
            save_training_curve(trainer.state.log_history, title, directory / CURVE_FILE)
    return summary


def _record_what_is_held(directory: Path, trainer: SynCoTrainer, recorded: dict[str, Any]) -> None:
    """Let the settings say what the optimizer holds and how long the run is, in place of what the flags asked for."""
    optimizer = trainer.describe_optimizer() or {}
    recorded["training"] |= {
        "learning_rate": optimizer.get("lr"),
        "weight_decay": max(_as_list(optimizer.get("weight_decay", 0.0))),
        "optimizer": optimizer.get("class"),
        "steps": trainer.state.max_steps,
        "epochs": round(trainer.state.max_steps / trainer.steps_per_epoch, 3),
        "precision": trainer.precision,
        "device": trainer.args.device.type,
        "versions": library_versions(),
    }
    write_json(directory / SETTINGS_FILE, json.loads(json.dumps(recorded, default=str)))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def build_config(backbone: BackboneArguments, settings: PretrainingSettings) -> SynCoConfig:
    """The configuration that the flags describe."""
    values = {name: value for name, value in dataclasses.asdict(backbone).items() if value is not None}
    for name in ("depth", "num_heads"):
        if len(values.get(name, ())) == 1:
            values[name] = values[name][0]
    return SynCoConfig(pretraining=dataclasses.asdict(settings), **values)


def open_images(
    data: DataArguments, image_size: int | None, seed: int, recorded: Mapping[str, Any] | None = None
) -> tuple[StreamedData | None, ImageDataset | StreamedImages]:
    """The training images, and the stream they come from, if they do; `recorded` describes those of a run begun."""
    if not data.streaming:
        return None, load_pretraining_images(data, data.holdout, image_size=image_size, recorded=recorded)
    settings = StreamSettings(seed, data.shuffle_buffer, data.stream_retries)
    source = open_stream(data, PRETRAINING)
    images = source.images(data.images_per_epoch)
    if recorded and len(source.tables) > 1 and recorded.get("fingerprint") != images.description.fingerprint:
        # Earlier versions left out what has no labels, and a run goes on with what it had.
        earlier = open_stream(data)
        its_images = earlier.images(data.images_per_epoch)
        if recorded["fingerprint"] == its_images.description.fingerprint:
            source, images = earlier, its_images
    return StreamedData(source, settings), images


def _read_recorded_data(training: SynCoTrainingArguments) -> dict[str, Any]:
    """What the settings of the run that goes on say about its images."""
    file = Path(str(training.output_dir)) / SETTINGS_FILE
    recorded: dict[str, Any] = json.loads(file.read_text()).get("data", {}) if file.is_file() else {}
    return recorded


def _exit_if_interrupted(trainer: SynCoTrainer) -> None:
    """End with the exit code of the signal, unless the run had reached its end anyway."""
    received = trainer.interruption.received
    if received is None or trainer.state.global_step >= trainer.state.max_steps:
        return
    logger.warning(
        "stopped by %s after step %d of %d; saved %s. Continue with --resume.",
        received.name,
        trainer.state.global_step,
        trainer.state.max_steps,
        trainer.last_good_checkpoint,
    )
    sys.exit(128 + received)


def _save_finished(
    directory: Path, model: SynCoForPreTraining, recorded: dict[str, Any], summary: dict[str, Any]
) -> None:
    """Put the online backbone where `AutoModel` finds it, with all that belongs to it."""
    with usual_modes(directory):
        model.synco.save_pretrained(directory)
        image_processor(model.config.image_size or 224).save_pretrained(directory)
    write_json(directory / SUMMARY_FILE, summary)
    write_card(directory, directory.name, model.config.to_dict(), recorded)


def run(argv: Sequence[str]) -> None:
    """Pretrain as the flags say."""
    pretrain(parse(argv))
