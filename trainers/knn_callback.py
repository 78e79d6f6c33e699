"""k-NN accuracy of the online network every few epochs: does what is learned separate what a label names?"""

from __future__ import annotations

import logging
import math
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from synco_hub.data import EvaluationDataset, EvaluationTransform, ImageDataset, ImageFolderDataset, load_dataset
from synco_hub.data.class_labels import number_alike
from synco_hub.data.image_folder import PRETRAINING
from synco_hub.data.subsets import ImageSubset, spread_subset
from synco_hub.evaluation.knn import evaluate_knn
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.models import image_processor
from synco_hub.settings import DatasetChoice, KnnSettings
from trainers.pretraining_trainer import SynCoTrainer
from trainers.settings import DataArguments

logger = logging.getLogger(__name__)

# Of what is measured, the number that is spoken of.
_SHOWN = "knn_top1_k10"
# How the numbers of the domain to keep begin.
KEPT = "knn_keep_"
# Of each split of a data set that is streamed: about a gigabyte of encoded images at ImageNet's size.
STREAMED_IMAGES = 10_000
# One process measures while the others wait for it, which they do for half an hour (`--ddp-timeout`).
MANY_IMAGES = 200_000


class KnnCallback(TrainerCallback):
    """Measures the online backbone before the first step, every n epochs and at the end, on the first process.

    The network, its training flags and the random state are left as they were, so a measured run has the bits of one
    that is not measured. A measurement that fails is said and left out: it is no reason to lose the training.
    """

    def __init__(
        self,
        trainer: SynCoTrainer,
        train: EvaluationDataset | None,
        test: EvaluationDataset | None,
        every_epochs: float,
        settings: KnnSettings | None = None,
        kept: tuple[EvaluationDataset, EvaluationDataset] | None = None,
    ) -> None:
        self.trainer = trainer
        self.kept = kept
        self.train = train
        self.test = test
        self.every_epochs = every_epochs
        self.settings = settings or KnnSettings(
            num_workers=0,
            device=str(trainer.args.device),
            max_bad_fraction=trainer.args.max_bad_fraction,
            progress=False,
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure what the network can before it learns, which is what all later accuracies are to be read against."""
        if state.global_step == 0 and state.is_world_process_zero:
            self.measure(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say it where the training has not paid."""
        measured = [entry for entry in state.log_history if _SHOWN in entry]
        if len(measured) > 1 and measured[0]["step"] == 0 and state.is_world_process_zero:
            before, after = measured[0][_SHOWN], measured[-1][_SHOWN]
            if after <= before:
                logger.warning(
                    "k-NN top-1 (k = 10) is %.1f %% after %d steps and was %.1f %% before the first: by this measure "
                    "the training has taught the network nothing. Look at the learning rate, the length of the run "
                    "and --recipe.",
                    *(after, measured[-1]["step"], before),
                )
        kept = [entry for entry in state.log_history if f"{KEPT}top1_k10" in entry]
        if len(kept) > 1 and kept[0]["step"] == 0 and state.is_world_process_zero:
            logger.warning(
                "On the domain to keep k-NN top-1 (k = 10) was %.1f %% at the start and is %.1f %% after %d steps; "
                "`synco-hub average` looks for weights between the two.",
                *(kept[0][f"{KEPT}top1_k10"], kept[-1][f"{KEPT}top1_k10"], kept[-1]["step"]),
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Measure when the step crossed a multiple of the interval; before the step is saved, which records it."""
        steps = self.every_epochs * self.trainer.steps_per_epoch
        crossed = math.floor(state.global_step / steps) > math.floor((state.global_step - 1) / steps)
        if (crossed or state.global_step == state.max_steps) and state.is_world_process_zero:
            wanted = control.should_log
            self.measure(state)
            # Logging the accuracy has ticked off the line of the step itself.
            control.should_log = wanted
        return control

    def measure(self, state: TrainerState) -> None:
        """Add k-NN top-1 to the log of the current step."""
        devices = [self.trainer.args.device] if self.trainer.args.device.type == "cuda" else []
        network = self.trainer.unwrapped_model.synco
        sides = {"knn_": (self.train, self.test), KEPT: self.kept or (None, None)}
        accuracies: dict[str, float] = {}
        for beginning, (train, test) in sides.items():
            if train is None or test is None:
                continue
            # What is compiled for training would be compiled anew for each kind of batch here.
            stance = torch.compiler.set_stance("force_eager") if self.trainer.args.torch_compile else nullcontext()
            try:
                with torch.random.fork_rng(devices), stance:
                    result = evaluate_knn(EvaluatedModel(network, None, "online"), train, test, self.settings)
            except (ValueError, OSError, torch.OutOfMemoryError) as error:
                logger.warning("k-NN after step %d was left out: %s", state.global_step, error)
                continue
            accuracies |= {
                f"{beginning}{name}": value for name, value in result.metrics.items() if name.startswith("top1")
            }
        if not accuracies:
            return
        self.trainer.log(accuracies)
        logger.info("k-NN after step %d: %s", state.global_step, accuracies)


@dataclass(frozen=True)
class KnnData:
    """What k-NN is measured on, as evaluation sees it: centre crops.

    Attributes:
        bank: Training images, which vote.
        queries: Test images.
        pretrained_queries: How many of the test images are pretrained on, without their labels.
        kept: Bank and queries of the domain that the start learnt from.
    """

    bank: EvaluationDataset | None
    queries: EvaluationDataset | None
    pretrained_queries: int = 0
    kept: tuple[EvaluationDataset, EvaluationDataset] | None = None

    def descriptions(self) -> dict[str, Any]:
        """What the accuracy was measured on; JSON values."""
        sides = {"bank": self.bank, "queries": self.queries}
        return {
            **{name: None if side is None else side.images.description.to_dict() for name, side in sides.items()},
            "pretrained_queries": self.pretrained_queries,
            **({} if self.kept is None else {"kept": [side.images.description.to_dict() for side in self.kept]}),
        }


def load_knn_data(data: DataArguments, image_size: int, training: ImageDataset, processor: Any = None) -> KnnData:
    """Opens both splits; of a table that is streamed, so many rows are read and kept in memory.

    Where there is a domain to keep, images without classes are no reason not to measure that.
    """
    transform = EvaluationTransform.from_image_processor(processor or image_processor(image_size))
    kept = None if data.keep_dataset is None else _load_kept(data, transform)
    try:
        return replace(_load_new(data, image_size, training, transform), kept=kept)
    except ValueError as error:
        if kept is None or data.knn_dataset is not None:
            raise
        logger.warning("k-NN is measured on --keep-dataset alone: %s", error)
        return KnnData(None, None, kept=kept)


def _load_new(data: DataArguments, image_size: int, training: ImageDataset, transform: EvaluationTransform) -> KnnData:
    most = STREAMED_IMAGES if data.knn_images is None and data.streaming else data.knn_images
    # Pretraining takes images that have no class, and of a folder those that are for the test.
    is_bank = not data.streaming and not isinstance(training, ImageFolderDataset | ImageSubset)
    is_bank = is_bank and training.description.split != PRETRAINING
    if data.knn_dataset is None and is_bank:
        bank = training if most is None else spread_subset(training, most)
    else:
        bank = _load_split(data, "train", image_size, most)
    bank.require_labels("--knn-every-epochs")
    queries = _load_split(data, "test", image_size, most)
    queries.require_labels("--knn-every-epochs")
    number_alike(bank, queries)
    _refuse_other_classes(bank, queries)
    _warn(bank, queries)
    seen = len({*_list_files(queries)} & {*_list_files(training)})
    if seen:
        logger.warning(
            "k-NN: %d of the %d test images are among those that are pretrained on, without their labels; "
            "--holdout 0.2 keeps a fifth of each class out, which is the test split that is drawn here.",
            *(seen, len(queries)),
        )
    return KnnData(EvaluationDataset(bank, transform), EvaluationDataset(queries, transform), seen)


def _load_kept(data: DataArguments, transform: EvaluationTransform) -> tuple[EvaluationDataset, EvaluationDataset]:
    choice = DatasetChoice(str(data.keep_dataset), data_dir=data.keep_data_dir, split_seed=data.split_seed)
    bank, queries = (
        load_dataset(choice, split, image_size=transform.image_size, max_images=data.knn_images)
        for split in ("train", "test")
    )
    for side in (bank, queries):
        side.require_labels("--keep-dataset")
    number_alike(bank, queries)
    _refuse_other_classes(bank, queries)
    return EvaluationDataset(bank, transform), EvaluationDataset(queries, transform)


def _list_files(images: ImageDataset) -> list[str]:
    """Paths of images that are files; of others none."""
    if isinstance(images, ImageSubset):
        whole = _list_files(images.images)
        return [whole[index] for index in images.indices] if whole else []
    if isinstance(images, ImageFolderDataset):
        return [os.path.join(images.root, name) for name in images.names]
    return []


def _load_split(data: DataArguments, split: str, image_size: int, most: int | None) -> ImageDataset:
    if data.knn_dataset is None:
        try:
            return load_dataset(data, split, image_size=image_size, max_images=most)
        except ValueError as error:
            raise ValueError(
                f"--knn-every-epochs: {error} Or name another data set to measure on with --knn-dataset."
            ) from error
    choice = DatasetChoice(data.knn_dataset, data_dir=data.knn_data_dir, split_seed=data.split_seed)
    return load_dataset(choice, split, image_size=image_size, max_images=most)


def _refuse_other_classes(bank: ImageDataset, queries: ImageDataset) -> None:
    """What the first measurement would refuse, after hours."""
    if bank.num_classes < 2:
        raise ValueError(
            f"--knn-every-epochs: all images of {bank.description.name} are of one class, {bank.class_names[0]!r}, so "
            "that every guess is right; name another data set with --knn-dataset."
        )
    if bank.class_names != queries.class_names:
        raise ValueError(
            f"--knn-every-epochs: the training images of {bank.description.name} have {bank.num_classes} classes, the "
            f"test images {queries.num_classes}, and not the same; name another data set with --knn-dataset."
        )


def _warn(bank: ImageDataset, queries: ImageDataset) -> None:
    asked = np.unique(queries.labels)
    strangers = np.setdiff1d(asked, bank.labels)
    if len(strangers):
        logger.warning(
            "k-NN: %d of the %d classes of the test images have no image among the %d training images, such as %r, "
            "and count as wrong; raise --knn-images, or name another data set with --knn-dataset.",
            *(len(strangers), len(asked), len(bank), queries.class_names[strangers[0]]),
        )
    if len(bank) + len(queries) > MANY_IMAGES:
        logger.warning(
            "k-NN: one process computes the features of %d images at every measurement while the others wait; "
            "--knn-images 10000 bounds it.",
            len(bank) + len(queries),
        )
