"""Pretrain a vision transformer by SynCo-v2, MoBY or BYOL (paper section 7.4).

    python -m trainers.pretrain --method synco-v2 --backbone deit-s --dataset PATH --output-dir runs/first
    synco-hub pretrain --recipe synco-v2-deit-s --dataset imagenet-1k --output-dir runs/synco-v2-deit-s

Expected: the paper reports 73.1 % linear top-1 on ImageNet for SynCo-v2 on DeiT-S/16 after 300 epochs (158 hours on
four GPUs); `synco-hub demo` reaches about 70 % k-NN top-1 on fractals in minutes on a CPU.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils import logging as transformers_logging

from synco_hub.data import TwoViewDataset
from synco_hub.data.views.transform import two_view_transform
from synco_hub.errors import report_errors
from synco_hub.hub.card.model_card import write_card
from synco_hub.models import image_processor
from trainers.knn_callback import KnnCallback
from trainers.knn_data import knn_data
from trainers.pretraining_flags import PretrainingRun, parse
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer
from trainers.runs.checkpoints import manifest_of
from trainers.runs.first_process import by_the_first
from trainers.runs.run_directory import SUMMARY_FILE, claim, write_json
from trainers.runs.training_curve import CURVE_FILE, save_training_curve

logger = logging.getLogger(__name__)


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
    stream = run.data.stream(run.training.seed) if run.data.streaming else None
    if stream is None:
        images = run.data.images("train", config.image_size)
    else:
        images = stream.source.images(run.data.images_per_epoch)
    every_epochs, knn = run.training.knn_every_epochs, None
    place = (run.training.process_index, run.training.world_size)
    if every_epochs is not None:
        knn = by_the_first(lambda: knn_data(run.data, config.image_size or 224, images), *place)
    transform = two_view_transform(run.training.augment_on, config.image_size or 224)
    views = TwoViewDataset(images, transform, seed=run.training.seed)
    trainer = SynCoTrainer(
        model, run.training, views, stream=stream, processing_class=image_processor(config.image_size or 224)
    )
    if every_epochs is not None and knn is not None:
        trainer.add_callback(KnnCallback(trainer, knn.bank, knn.queries, every_epochs))
    directory = Path(str(run.training.output_dir))
    recorded = run.recorded(config, images.description.to_dict())
    by_the_first(lambda: claim(directory, recorded, run.training.resume), *place)
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
        "knn": [entry for entry in trainer.state.log_history if any(name.startswith("knn_") for name in entry)],
        "knn_data": None if knn is None else knn.descriptions(),
        "skipped_files": trainer.ledger.names(),
        "data": recorded["data"],
    }
    if trainer.is_world_process_zero():
        save_finished(directory, trainer.unwrapped_model, recorded, summary)
        if summary["last_log"]:
            title = f"{run.settings.method} on {run.backbone.backbone}, {run.data.dataset}"
            save_training_curve(trainer.state.log_history, title, directory / CURVE_FILE)
    return summary


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
    with report_errors():
        pretrain(parse(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
