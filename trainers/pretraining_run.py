"""A pretraining run from its flags to the finished directory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import set_seed

from synco_hub.atomic_write import usual_modes
from synco_hub.averaging import average, format_average
from synco_hub.data import ImageDataset, StreamedImages, StreamSettings, TwoViewDataset, open_stream
from synco_hub.data.image_folder import PRETRAINING
from synco_hub.data.loading import describe_pretraining_images, load_pretraining_images
from synco_hub.data.pretraining_images import FingerprintRecorder, PretrainingData
from synco_hub.data.table_source import TableSource
from synco_hub.data.views.transform import make_two_view_transform
from synco_hub.hub.card.model_card import write_card
from synco_hub.hub.loading import load_processor
from synco_hub.hub.run_checkpoints import latest_valid_checkpoint
from synco_hub.hub.start import Start, read_start
from synco_hub.models import SynCoConfig, image_processor
from synco_hub.results import library_versions
from synco_hub.settings import KnnSettings
from trainers.command import require_output_dir, split_flags
from trainers.knn_callback import KnnCallback, load_knn_data
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_model import DRAWN_ANEW, SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer
from trainers.pretraining_views import choose_view_parameters
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
from trainers.start_settings import StartArguments

logger = logging.getLogger(__name__)

# What of a start's facts says whether heads and queues are its own.
_HEADS = ("heads", "queues")
# What of a start can be made another size.
_SIZES = ("image_size", "window_size")
# Folder of a run for the weights between its start and its end.
AVERAGE = "average"


def pretrain(run: PretrainingRun) -> dict[str, Any]:
    """Pretrain, and leave the online model, its image processor, card and summary in the output directory."""
    directory = Path(str(run.training.output_dir))
    resumes = bool(run.training.resume or run.training.resume_from_checkpoint)
    model = build_model(run, read_settings(directory) if resumes else {})
    config: Any = model.config
    processor = model.image_processor or image_processor(config.image_size or 224)
    recorded_data = _read_recorded_data(run.training) if resumes else None
    stream, images = open_images(run.data, config.image_size, run.training.seed, recorded_data)
    every_epochs, knn = run.training.knn_every_epochs, None
    processes = (run.training.process_index, run.training.world_size)
    if every_epochs is not None:
        knn = run_on_main_process(lambda: load_knn_data(run.data, config.image_size, images, processor), *processes)
    parameters = choose_view_parameters(model.image_processor, run.views)
    transform = make_two_view_transform(run.training.augment_on, config.image_size or 224, parameters)
    views = TwoViewDataset(images, transform, seed=run.training.seed)
    recorder = _make_recorder(run, images, stream)
    views.recorder = recorder
    trainer = SynCoTrainer(model, run.training, views, stream=stream, processing_class=processor)
    if every_epochs is not None and knn is not None:
        trainer.add_callback(KnnCallback(trainer, knn.bank, knn.queries, every_epochs, kept=knn.kept))
    recorded = run.recorded(config, images.description.to_dict())
    if model.start is not None:
        domains = {name: dataclasses.asdict(choice) for name, choice in run.domains.items()}
        recorded |= {"start": model.start, "domains": domains}
    recorded["flags"] = list(run.training.given_flags)
    # A resumed run has other flags once it goes on with them, and not if it is refused or at its end.
    held = read_settings(directory, ("training", "flags")) if trainer.resumes else {}

    def claim() -> None:
        recorded["data"] = describe_images(images, None if stream is None else stream.source)
        claim_directory(directory, {**recorded, **held}, trainer.resumes)
        if recorder is not None:
            about = (run.data.holdout, config.image_size, stream is not None)
            recorder.begin(PretrainingData.of(images, run.data, *about), trainer.resumes)

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
        if recorder is not None:
            # Full batches leave some out of the first epoch, which come in the next.
            came_all = stream is None and trainer.state.global_step > trainer.steps_per_epoch
            recorder.finish(images if came_all and isinstance(images, ImageDataset) else None)
        _save_finished(directory, trainer.unwrapped_model, processor, read_settings(directory), summary)
        logger.warning("wrote %s: weights, image processor, card and curve; it loads by this path", directory)
        if summary["last_log"]:
            title = f"{run.settings.method} on {config.backbone}, {run.data.dataset}"
            save_training_curve(trainer.state.log_history, title, directory / CURVE_FILE)
        if run.start.save_average:
            _save_average(run, directory)
    return summary


def _make_recorder(
    run: PretrainingRun, images: ImageDataset | StreamedImages, stream: StreamedData | None
) -> FingerprintRecorder | None:
    """What notes the images of the first epoch; of a stream with short epochs, of as many as go through it once."""
    if not run.data.leak_check:
        return None
    counts = [] if stream is None else list(stream.source.counts)
    total = sum(count for count in counts if count is not None)
    epochs = -(-total // len(images)) if counts and None not in counts else 1
    return FingerprintRecorder(Path(str(run.training.output_dir)), max(epochs, 1))


def _save_average(run: PretrainingRun, directory: Path) -> None:
    """What `synco-hub average` writes, in the run's folder; a measurement that fails costs no training."""
    if (directory / AVERAGE).exists():
        return
    settings = KnnSettings(num_workers=0, device=str(run.training.device), progress=False)
    try:
        report = average(
            str(run.start.start_from), str(directory), directory / AVERAGE, run.domains, run.data.knn_images, settings
        )
    except (ValueError, OSError) as error:
        logger.warning("--save-average was left out: %s", error)
        return
    logger.warning("%s", format_average(report))


def _record_what_is_held(directory: Path, trainer: SynCoTrainer, recorded: dict[str, Any]) -> None:
    """Let the settings say what the optimizer holds and how long the run is, in place of what the flags asked for."""
    optimizer = trainer.describe_optimizer() or {}
    held = {"layer_decay": trainer.layer_decay, "frozen_steps": trainer.count_frozen_steps(trainer.state.max_steps)}
    recorded["training"] |= held if "start" in recorded else {}
    if trainer.unwrapped_model.objective.synthesises:
        recorded["training"]["synthetic_steps"] = len(trainer.synthesis_window)
    recorded["training"] |= {
        "learning_rate": max(_as_list(optimizer.get("lr", 0.0))),
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


def build_model(run: PretrainingRun, recorded: Mapping[str, Any]) -> SynCoForPreTraining:
    """The network of a run: drawn, begun from weights, or, resumed, as its newest checkpoint is."""
    directory, name = Path(str(run.training.output_dir)), run.start.start_from
    begun = recorded.get("start")
    if recorded and name is not None and split_flags(recorded.get("flags") or []).get("start_from") != [name]:
        _refuse_other_start(run.start, begun, directory)
    newest = latest_valid_checkpoint(directory) if begun else None
    if begun is not None and newest is not None:
        config = SynCoConfig.from_pretrained(newest)
        _refuse_contradictions(run.backbone, config, begun["base_model"])
        config.pretraining = dataclasses.asdict(run.settings)
        set_seed(run.training.seed)
        model = SynCoForPreTraining(config)
        model.start, model.image_processor = begun, load_processor(str(newest))
        return model
    if name is None:
        if begun:
            raise ValueError(
                f"{directory} has no checkpoint to go on from: give --start-from {begun['base_model']} again."
            )
        set_seed(run.training.seed)
        return SynCoForPreTraining(build_config(run.backbone, run.settings))
    start = _read_start(run)
    _refuse_contradictions(run.backbone, cast(SynCoConfig, start.model.config), name, _SIZES)
    if run.training.process_index == 0:
        logger.warning("%s", start.describe())
        if start.forbids_derivatives:
            logger.warning(
                "The licence of %s (%s) lets nobody pass on what is made from it: keep what comes out to yourself.",
                *(start.facts["base_model"], start.facts["licence"]),
            )
    set_seed(run.training.seed)
    model = SynCoForPreTraining.from_backbone(start, run.settings)
    if run.training.process_index == 0 and model.start is not None:
        logger.warning("%s", "; ".join(f"{part}: {model.start[part]}" for part in _HEADS if part in model.start))
        if other := _describe_other_objective(model.settings, model.start):
            logger.warning("%s", other)
    return model


def _describe_other_objective(settings: PretrainingSettings, start: Mapping[str, Any]) -> str:
    """What this run does otherwise with heads that it takes over than the training they are from; empty if nothing."""
    if start["heads"].startswith(DRAWN_ANEW):
        return ""
    now = dataclasses.asdict(settings)
    was = {**dataclasses.asdict(PretrainingSettings(method=settings.method)), **start["pretraining"]}
    other = [name for name in now if now[name] != was[name] and name != "queue_size"]
    if not other:
        return ""
    flags = " ".join(f"--{name.replace('_', '-')} {was[name]}" for name in other)
    return (
        f"objective: the start's heads are of a training with {flags}, this one has "
        f"{', '.join(str(now[name]) for name in other)}: give these flags to go on with theirs."
    )


def _read_start(run: PretrainingRun) -> Start:
    heads, window = run.backbone.num_heads, run.backbone.window_size
    return read_start(
        str(run.start.start_from),
        run.start.start_revision,
        run.backbone.image_size,
        window,
        heads[0] if heads is not None and len(heads) == 1 else None,
    )


def _refuse_other_start(start: StartArguments, begun: Mapping[str, Any] | None, directory: Path) -> None:
    """A run goes on from its own state: another start would be ignored."""
    name = str(start.start_from)
    if begun is None:
        raise ValueError(
            f"--start-from {name}: {directory} began with random weights, and --resume goes on with it: leave "
            "--start-from out, or choose another --output-dir."
        )
    if read_start(name, start.start_revision).facts["weights"] != begun["weights"]:
        raise ValueError(
            f"--start-from {name}: {directory} began with {begun['base_model']}, which has other weights, and "
            "--resume goes on with it: leave --start-from out, or choose another --output-dir."
        )


def _refuse_contradictions(
    given: BackboneArguments, config: SynCoConfig, start: str, free: Sequence[str] = ()
) -> None:
    """The network is the start's: a flag may repeat what it has; what is free may get another size."""
    for name, value in vars(given).items():
        own = getattr(config, name)
        if value is None or name in free:
            continue
        if name == "backbone":
            sizes = ("embed_dim", "depth")
            wanted = [getattr(SynCoConfig(value), size) for size in sizes]
            same = wanted == [getattr(config, size) for size in sizes]
        else:
            value = value[0] if isinstance(value, list) and len(value) == 1 else value
            same = value == own
        if not same:
            raise ValueError(
                f"--{name.replace('_', '-')} {value}: the network is that of --start-from {start}, which has "
                f"{name} {own}: leave it out, or choose another start."
            )


def open_images(
    data: DataArguments, image_size: int | None, seed: int, recorded: Mapping[str, Any] | None = None
) -> tuple[StreamedData | None, ImageDataset | StreamedImages]:
    """The training images, and the stream they come from, if they do; `recorded` describes those of a run begun."""
    if not data.streaming:
        return None, load_pretraining_images(data, data.holdout, image_size=image_size, recorded=recorded)
    settings = StreamSettings(seed, data.shuffle_buffer, data.stream_retries)
    source = open_stream(data, PRETRAINING)
    images = source.images(data.images_per_epoch)
    if recorded and recorded.get("fingerprint") != images.description.fingerprint:
        # Earlier versions left out what has no labels, and knew fewer names of splits; a run goes on with what it had.
        for choice in (data, TableSource.of(data, library_splits=True)):
            with contextlib.suppress(ValueError):
                earlier = open_stream(choice)
                its_images = earlier.images(data.images_per_epoch)
                if recorded["fingerprint"] == its_images.description.fingerprint:
                    source, images = earlier, its_images
                    break
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
    directory: Path, model: SynCoForPreTraining, processor: Any, recorded: dict[str, Any], summary: dict[str, Any]
) -> None:
    """Put the online backbone where `AutoModel` finds it, with all that belongs to it."""
    with usual_modes(directory):
        model.synco.save_pretrained(directory)
        processor.save_pretrained(directory)
    write_json(directory / SUMMARY_FILE, summary)
    write_card(directory, directory.name, model.config.to_dict(), recorded)


def run(argv: Sequence[str]) -> None:
    """Pretrain as the flags say."""
    asked = parse(argv)
    require_output_dir(argv)
    pretrain(asked)
