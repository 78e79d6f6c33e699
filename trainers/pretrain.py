"""Pretrain a vision transformer by SynCo-v2, MoBY or BYOL (paper section 7.4).

    python -m trainers.pretrain --method synco-v2 --backbone deit-s --dataset PATH --output-dir runs/first
    synco-hub pretrain --recipe synco-v2-deit-s --dataset imagenet-1k --output-dir runs/synco-v2-deit-s

Expected: the paper reports 73.1 % linear top-1 on ImageNet for SynCo-v2 on DeiT-S/16 after 300 epochs (158 hours on
four GPUs); `synco-hub demo` reaches about 70 % k-NN top-1 on fractals in minutes on a CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import set_seed
from transformers.utils import logging as transformers_logging

from synco_hub.command_errors import one_line_errors
from synco_hub.data import (
    EvaluationDataset,
    EvaluationTransform,
    ImageDataset,
    StreamSettings,
    TwoViewDataset,
    load_dataset,
    open_stream,
)
from synco_hub.data.hub_source import HubSource
from synco_hub.data.views.augmentation_place import two_view_transform
from synco_hub.hub.card.model_card import write_card
from synco_hub.models import SynCoConfig, image_processor
from synco_hub.models.backbones_synco import suggest
from trainers.checkpoints import manifest_of
from trainers.data_arguments import BackboneArguments, DataArguments
from trainers.fidelity import AUTHORS_CODE, PAPER, fidelity_settings
from trainers.flag_parser import FlagParser
from trainers.knn_callback import KnnCallback
from trainers.pretraining_arguments import PretrainingSettings, SynCoTrainingArguments
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer
from trainers.recipe import as_flags, recipe_flags
from trainers.run_directory import SUMMARY_FILE, claim, write_json
from trainers.stream_loading import StreamedData
from trainers.training_curve import CURVE_FILE, save_training_curve

logger = logging.getLogger(__name__)

EXAMPLE = (
    "example: synco-hub pretrain --method synco-v2 --backbone deit-s --dataset ./photographs "
    "--output-dir runs/first --num-train-epochs 100 --per-device-train-batch-size 64. Several processes on one "
    "machine: add --num-processes N; on several machines: torchrun -m trainers.pretrain with the same flags."
)


@dataclass(frozen=True)
class PretrainingRun:
    """Everything a run was asked for."""

    settings: PretrainingSettings
    backbone: BackboneArguments
    data: DataArguments
    training: SynCoTrainingArguments
    fidelity: str = PAPER


def parse(argv: Sequence[str]) -> PretrainingRun:
    """Turn flags into a run; a recipe's flags come first, so that the user's own win.

    Raises:
        ValueError: If a value is impossible or the recipe unknown.
    """
    parser = FlagParser(
        cast(Any, (PretrainingSettings, BackboneArguments, DataArguments, SynCoTrainingArguments)),
        prog="synco-hub pretrain",
        description=(__doc__ or "").split("\n", 1)[0],
        epilog=EXAMPLE,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--recipe", help="Name of a recipe or a YAML file of flags; flags given here override it.")
    parser.add_argument(
        "--fidelity",
        default=PAPER,
        help=f"{PAPER}, or {AUTHORS_CODE}: the settings of the authors' published code where it differs.",
    )
    rest, fidelity = _with_groups(parser, list(argv))
    *parts, _, unknown = parser.parse_args_into_dataclasses(
        rest, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings]
        raise ValueError(f"{unknown[0]} is not a flag of this command.{suggest(unknown[0].split('=')[0], flags)}")
    settings, backbone, data, training = parts
    return PretrainingRun(settings, backbone, data, training, fidelity)


def _with_groups(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[list[str], str]:
    """The flags with those of a recipe and of a fidelity before the user's own, which win; and the fidelity."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in (("recipe", None), ("fidelity", PAPER), ("method", None), ("backbone", None)):
        first.add_argument(f"--{name}", default=default)
    known = [action.dest for action in parser._actions]
    given = first.parse_known_args(argv)[0]
    flags = recipe_flags(given.recipe, known) if given.recipe else []
    chosen = first.parse_known_args([*flags, *argv])[0]
    method, backbone = chosen.method or PretrainingSettings.method, chosen.backbone or BackboneArguments.backbone
    flags += as_flags(fidelity_settings(chosen.fidelity, method, backbone), known, f"fidelity {chosen.fidelity}")
    return [*flags, *argv], chosen.fidelity


def pretrain(run: PretrainingRun) -> dict[str, Any]:
    """Pretrain, and leave the online model, its image processor, card and summary in the output directory.

    Returns:
        The last logged numbers and what was trained, as plain data.

    Raises:
        ValueError: On impossible settings, unreadable data, or a directory that holds another run.
        FloatingPointError: If the loss stops being a number.
    """
    config = run.backbone.config(dataclasses.asdict(run.settings))
    set_seed(run.training.seed)
    model = SynCoForPreTraining(config)
    stream = _stream(run) if run.data.streaming else None
    images = _images(run, config, "train") if stream is None else stream.source.images(run.data.images_per_epoch)
    every_epochs = run.training.knn_every_epochs
    knn_splits = None if every_epochs is None else _knn_splits(run, config, images)
    transform = two_view_transform(run.training.augment_on, config.image_size or 224)
    views = TwoViewDataset(images, transform, seed=run.training.seed)
    trainer = SynCoTrainer(
        model, run.training, views, stream=stream, processing_class=image_processor(config.image_size or 224)
    )
    if every_epochs is not None and knn_splits is not None:
        trainer.add_callback(KnnCallback(trainer, *knn_splits, every_epochs))
    directory = Path(str(run.training.output_dir))
    recorded = _recorded(run, config, images.description.to_dict())
    if trainer.is_world_process_zero():
        claim(directory, recorded, run.training.resume)
    checkpoint = trainer.newest_checkpoint() if run.training.resume else None
    if run.training.resume and trainer.is_world_process_zero():
        logger.warning("resuming from %s", checkpoint or "the beginning: there is no whole checkpoint")
    if checkpoint is not None and manifest_of(Path(checkpoint))["step"] >= trainer.total_steps:
        # The Trainer would take one step more.
        trainer.load_finished(checkpoint)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    if len(trainer.ledger) and trainer.is_world_process_zero():
        logger.warning("%s", trainer.ledger.summary())
    exit_if_interrupted(trainer)
    summary = {
        "steps": trainer.state.global_step,
        "seconds": round(trainer.seconds, 3),
        "last_log": next((entry for entry in reversed(trainer.state.log_history) if "loss" in entry), {}),
        "knn": [entry for entry in trainer.state.log_history if "knn_top1_k10" in entry],
        "skipped_files": trainer.ledger.names(),
        "data": recorded["data"],
    }
    if trainer.is_world_process_zero():
        save_finished(directory, trainer.unwrapped_model, recorded, summary)
        if summary["last_log"]:
            title = f"{run.settings.method} on {run.backbone.backbone}, {run.data.dataset}"
            save_training_curve(trainer.state.log_history, title, directory / CURVE_FILE)
    return summary


def _images(run: PretrainingRun, config: SynCoConfig, split: str) -> ImageDataset:
    return load_dataset(
        run.data.dataset,
        split=split,
        seed=run.data.split_seed,
        image_size=config.image_size,
        data_dir=run.data.data_dir,
        image_column=run.data.image_column,
        label_column=run.data.label_column,
        config=run.data.config,
        revision=run.data.revision,
        dataset_id=run.data.dataset_id,
    )


def _stream(run: PretrainingRun) -> StreamedData:
    """The data set as a stream; its labels are not read."""
    if run.training.knn_every_epochs is not None:
        raise ValueError(
            "--knn-every-epochs reads the images by position: leave out --streaming, or measure the finished run with "
            "`synco-hub evaluate knn`."
        )
    given = HubSource(run.data.dataset, run.data.config, run.data.revision, run.data.data_dir, run.data.image_column)
    settings = StreamSettings(run.training.seed, run.data.shuffle_buffer, run.data.stream_retries)
    return StreamedData(open_stream(given, "train", run.data.dataset_id), settings)


def _knn_splits(
    run: PretrainingRun, config: SynCoConfig, images: ImageDataset
) -> tuple[EvaluationDataset, EvaluationDataset]:
    """Train and test split as evaluation sees them: centre crops."""
    images.require_labels("--knn-every-epochs")
    transform = EvaluationTransform.from_image_processor(image_processor(config.image_size or 224))
    return EvaluationDataset(images, transform), EvaluationDataset(_images(run, config, "test"), transform)


def exit_if_interrupted(trainer: SynCoTrainer) -> None:
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


def _recorded(run: PretrainingRun, config: SynCoConfig, data: dict[str, Any]) -> dict[str, Any]:
    """What tells this run from another, and how it was trained."""
    backbone = {name: getattr(config, name) for name in vars(run.backbone)}
    training = {
        name: getattr(run.training, name)
        for name in (
            "num_train_epochs",
            "max_steps",
            "learning_rate",
            "base_learning_rate",
            "weight_decay",
            "warmup_epochs",
            "momentum_start",
            "synthetic_warmup_epochs",
            "synthetic_cooldown_epochs",
            "augment_on",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "global_batch_size",
            "world_size",
        )
    }
    training["fidelity"] = run.fidelity
    return {
        "pretraining": dataclasses.asdict(run.settings),
        "backbone": backbone,
        "data": data,
        "seed": run.training.seed,
        "training": training,
    }


def save_finished(
    directory: Path, model: SynCoForPreTraining, recorded: dict[str, Any], summary: dict[str, Any]
) -> None:
    """Put the online backbone where `AutoModel` finds it, with all that belongs to it."""
    model.synco.save_pretrained(directory)
    image_processor(model.config.image_size or 224).save_pretrained(directory)
    write_json(directory / SUMMARY_FILE, summary)
    write_card(directory, directory.name, model.config.to_dict(), recorded)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; one clear line and exit code 1 on failure."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    transformers_logging.set_verbosity_error()
    # The training bar is the Trainer's own; these would be bars for single files that take a blink.
    transformers_logging.disable_progress_bar()
    # accelerate's own call, until it uses the new name of the setting.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    with one_line_errors():
        pretrain(parse(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
