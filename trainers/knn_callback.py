"""k-NN accuracy of the online network every few epochs: does what is learned separate what a label names?"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from synco_hub.data import EvaluationDataset
from synco_hub.evaluation import evaluate_knn
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.settings import KnnSettings
from trainers.pretraining_trainer import SynCoTrainer

logger = logging.getLogger(__name__)


class KnnCallback(TrainerCallback):
    """Measures the online backbone at the end of every n-th epoch and of the run, on the first process.

    The network, its training flags and the random state are left as they were, so a measured run has the bits of one
    that is not measured. A measurement that fails is said and left out: it is no reason to lose the training.

    Args:
        trainer: Whose model is measured.
        train: The bank, with the evaluation transform.
        test: The queries.
        every_epochs: Epochs between two measurements, above 0.
        settings: How features are computed, and which k.
    """

    def __init__(
        self,
        trainer: SynCoTrainer,
        train: EvaluationDataset,
        test: EvaluationDataset,
        every_epochs: float,
        settings: KnnSettings | None = None,
    ) -> None:
        self.trainer = trainer
        self.train = train
        self.test = test
        self.every_epochs = every_epochs
        self.settings = settings or KnnSettings(
            num_workers=0,
            device=str(trainer.args.device),
            max_bad_fraction=trainer.args.max_bad_fraction,
            progress=False,
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
        try:
            with torch.random.fork_rng(devices):
                result = evaluate_knn(EvaluatedModel(network, None, "online"), self.train, self.test, self.settings)
        except (ValueError, OSError) as error:
            logger.warning("k-NN after step %d was left out: %s", state.global_step, error)
            return
        accuracies = {f"knn_{name}": value for name, value in result.metrics.items() if name.startswith("top1")}
        self.trainer.log(accuracies)
        logger.info("k-NN after step %d: %s", state.global_step, accuracies)
