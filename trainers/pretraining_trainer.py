"""`SynCoTrainer`: `transformers.Trainer` with target network, queues and the synthesis window (paper section 7.4)."""

from __future__ import annotations

import logging
import math
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler
from transformers import ProgressCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from synco_hub.data import EpochSampler, StreamSampler, TwoViewCollator, UnreadableImages
from synco_hub.data.views.dataset import (
    OwnCollator,
    OwnItems,
    count_local_views,
    is_own_data,
    open_view_pairs,
    read_batch,
)
from synco_hub.data.views.device_views import finish_local_views, finish_views
from synco_hub.data.views.transform import make_two_view_transform, place_of
from synco_hub.models import SynCoConfig
from trainers.callbacks import (
    CollapseCallback,
    EpochCallback,
    GradientNormCallback,
    ImageProgressCallback,
    LastLogCallback,
    TargetUpdateCallback,
    TrainBeginCallback,
    TrainingMonitor,
    compute_chance_loss,
    compute_gradient_norm,
)
from trainers.compilation import compile_in_place
from trainers.layer_decay import BACKBONE, NO_WEIGHT_DECAY, make_groups
from trainers.plausibility import find_misfits, plan_run
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_checks import (
    HOW_TO_MEASURE,
    refuse_local_views,
    refuse_lone_images,
    refuse_other_kinds,
    refuse_small_data,
)
from trainers.pretraining_model import (
    SynCoForPreTraining,
    check_complete_state,
    check_same_network,
    check_same_start,
    synchronize_batch_norm,
)
from trainers.pretraining_views import build_device_views, build_processor, choose_view_parameters
from trainers.runs.checkpointing_trainer import CheckpointingTrainer
from trainers.runs.checkpoints import read_manifest
from trainers.runs.reading_ahead import BatchesReadAhead
from trainers.runs.stream_loading import StreamBrokeOffError, StreamedData, StreamLoading
from trainers.schedules import (
    frozen_backbone_factor,
    learning_rate_factor,
    learning_rate_factor_of_authors,
    scaled_learning_rate,
    synthetic_steps,
    target_momentum,
    token_dropout_factor,
)
from trainers.settings import AUTHORS_CODE
from trainers.start_settings import START_FROZEN_FRACTION, START_LAYER_DECAY
from trainers.step_time import describe_step_cost
from trainers.token_dropout import TokenDropoutCallback, refuse_idle_cooldown

logger = logging.getLogger(__name__)


class SynCoTrainer(CheckpointingTrainer):
    """Pretrains a `SynCoForPreTraining` on pairs of views.

    Args:
        model: The pretraining network.
        args: How to train it.
        train_dataset: Images of `synco_hub.data.load_dataset`; a data set of torch, torchvision or `datasets` whose
            items hold an image, a finished view (drawn twice) or two views, alone, before labels or in a dict; or a
            `synco_hub.data.TwoViewDataset`. Views of images are the paper's, made where `args.augment_on` says. What
            a data set draws from the global generators of torch, numpy and Python comes again after a resume.
        stream: Where its images come from, if they come as a stream; `train_dataset.images` are then its images.
        **kwargs: What `transformers.Trainer` takes. A `data_collator` gets the items of the data set as they are and
            gives view_1 and view_2. `processing_class` is saved with the weights; without one it follows the views.

    Raises:
        ValueError: If model or arguments are of another kind, the data set is none of these, or it holds fewer images
            than a global batch.
    """

    model: SynCoForPreTraining
    args: SynCoTrainingArguments

    def __init__(
        self,
        model: SynCoForPreTraining,
        args: SynCoTrainingArguments,
        train_dataset: Any,
        stream: StreamedData | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_other_kinds(model, args, kwargs)
        refuse_idle_cooldown(model.settings, args)
        size, collate = model.config.image_size or 224, kwargs.get("data_collator")
        if collate is None or isinstance(collate, TwoViewCollator):
            transform = make_two_view_transform(args.augment_on, size, choose_view_parameters(model.image_processor))
            train_dataset = open_view_pairs(train_dataset, transform, args.seed)
            kwargs["data_collator"] = TwoViewCollator()
        elif is_own_data(train_dataset, args.seed):
            train_dataset, kwargs["data_collator"] = OwnItems(train_dataset, args.seed), OwnCollator(collate)
        refuse_small_data(len(train_dataset), args)
        refuse_lone_images(model, args)
        refuse_local_views(train_dataset, model)
        args.fit_to(len(train_dataset))
        if kwargs.get("processing_class") is None:
            kwargs["processing_class"] = build_processor(
                train_dataset, kwargs["data_collator"], size, model.image_processor
            )
        if args.world_size > 1:
            model = synchronize_batch_norm(model, args.device.type)
        super().__init__(model=model, args=args, train_dataset=train_dataset, **kwargs)
        self.monitor = TrainingMonitor()
        self.num_images = len(train_dataset)
        self.ledger = UnreadableImages(train_dataset, max_bad_fraction=args.max_bad_fraction)
        self.stream = None if stream is None else StreamLoading(stream, self.num_images, args)
        self.epoch_sampler: EpochSampler | StreamSampler | None = None if self.stream is None else self.stream.sampler
        self._transform = getattr(train_dataset, "transform", None)
        self.local_crops = count_local_views(train_dataset)
        self.device_views = build_device_views(self._transform, args)
        self._reading: BatchesReadAhead | None = None
        self._bad_indices: list[Tensor] = []
        self._gradient_norm: Tensor | None = None
        self.at_begin = TrainBeginCallback(self._warn_of_misfits)
        if self.local_crops or model.settings.token_dropouts:
            self.at_begin.works.append(self._state_cost)
        for callback in (
            TokenDropoutCallback(self),
            TargetUpdateCallback(self),
            GradientNormCallback(self),
            EpochCallback(self),
            LastLogCallback(),
            self.at_begin,
            CollapseCallback(model.settings.queue_size if model.objective.has_queue else None),
        ):
            self.add_callback(callback)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ImageProgressCallback(self))
        compile_in_place(self, self.unwrapped_model, self._rehearse_objective)

    @property
    def unwrapped_model(self) -> SynCoForPreTraining:
        """The model without the wrappers of distributed training and compilation."""
        model: SynCoForPreTraining = self.accelerator.unwrap_model(self.model)
        return model

    @cached_property
    def synthesis_window(self) -> range:
        """Optimizer steps in which synthetic negatives are made; known once the run's length is."""
        return self._plan_synthesis(self.state.max_steps)

    @property
    def synthetic_active(self) -> bool:
        """Whether the current optimizer step makes synthetic negatives."""
        return self.unwrapped_model.objective.synthesises and self.state.global_step in self.synthesis_window

    def _warn_of_misfits(self) -> None:
        """Say what does not fit the data, the network or the length of the run, which is known now."""
        config, window = cast(SynCoConfig, self.unwrapped_model.config), self.synthesis_window
        started, steps = self.unwrapped_model.start is not None, (self.state.max_steps, self.steps_per_epoch)
        for line in find_misfits(plan_run(self.args, config, self.num_images, *steps, window, started)):
            logger.warning("%s", line)

    def _state_cost(self) -> None:
        """Say what small views cost, and dropped tokens save, before the first step is taken."""
        size = self._transform.parameters.local_size if self.local_crops else 0  # type: ignore[union-attr]
        batch = self.args.per_device_train_batch_size
        with self.accelerator.autocast():
            cost = describe_step_cost(self.unwrapped_model, batch, self.local_crops, size)
        logger.warning("%s", cost)

    def _rehearse_objective(self) -> None:
        """Compile the objective as the steps to come need it, with and without synthetic negatives."""
        model, steps = self.unwrapped_model, range(self.state.global_step, self.state.max_steps)
        active = {model.objective.synthesises and step in self.synthesis_window for step in steps}
        with self.accelerator.autocast():
            model.rehearse_objective(self.args.per_device_train_batch_size, sorted(active), self.local_crops)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[tuple[int, int]]:
        """The sampler carries the epoch with each index: workers never hear of a new epoch otherwise."""
        self.epoch_sampler = EpochSampler(self.num_images, seed=self.args.seed)
        return self.epoch_sampler

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Of images by position batches that are read ahead, without workers the Trainer's; of a stream its own."""
        collate = cast(Any, self.data_collator)
        if self.stream is not None:
            return self.stream.loader(self.train_dataset, collate)
        if not (self.args.dataloader_num_workers and self.args.dataloader_in_order):
            return super().get_train_dataloader()
        self._reading = BatchesReadAhead(self.train_dataset, collate, self.args)
        plain = self._reading.loader(self.args.per_device_train_batch_size, self._get_train_sampler())
        loader: DataLoader[Any] = self.accelerator.prepare(plain)
        num_epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        self._reading.follow(loader.batch_sampler, cast(EpochSampler, self.epoch_sampler), num_epochs)
        return loader

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of the next optimizer step, or a checkpoint and the end if a stream broke off.

        Raises:
            StreamBrokeOffError: On every process, when the stream of one broke off.
        """
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        if self.stream is None:
            return batches, num_items
        if self.stream.broke_off(batches):
            self._save_and_stop(self.stream)
        return self.stream.on_device(batches), num_items

    def _save_and_stop(self, stream: StreamLoading) -> None:
        step, newest = self.state.global_step, self.last_good_checkpoint
        if step > 0 and (newest is None or read_manifest(Path(newest))["step"] < step):
            self._save_checkpoint(self.model_wrapped, None)
        raise StreamBrokeOffError(
            f"{stream.reason()}. Stopped after step {step} of {self.state.max_steps}; saved "
            f"{self.last_good_checkpoint or 'nothing yet'}. When it can be read again, continue with --resume."
        )

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `CheckpointingTrainer.train`; what reads ahead is ended also after an error."""
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self.stream is not None:
                self.stream.sampler.close()
            if self._reading is not None:
                self._reading.close()

    def check_checkpoint(self, checkpoint: str) -> None:
        """As `CheckpointingTrainer.check_checkpoint`; the way to a stream's place gets a progress bar."""
        check_same_network(checkpoint, self.unwrapped_model)
        check_same_start(checkpoint, read_manifest(Path(checkpoint)).get("start"), self.unwrapped_model.start)
        super().check_checkpoint(checkpoint)
        manifest = read_manifest(Path(checkpoint))
        self._warn_of_stretched_schedules(Path(checkpoint))
        self.ledger.record(manifest.get("bad_images", []))
        if self.stream is not None:
            epoch, steps = divmod(manifest["step"], self.steps_per_epoch)
            self.stream.go_on_from(manifest.get("stream"), epoch)
            self.stream.show_skipping(steps)

    def _warn_of_stretched_schedules(self, checkpoint: Path) -> None:
        """Say what another length of the run does to the next step; every schedule ends where the run does."""
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        step, planned = state.global_step, state.max_steps
        if planned == self.total_steps or step >= self.total_steps or not self.is_world_process_zero():
            return
        was, now = (self._plan_step(step, total) for total in (planned, self.total_steps))
        logger.warning(
            "%s is of a run of %d steps that is now to have %d, which moves its schedules: at step %d %s. Give "
            "--max-steps %d to end it as it was planned.",
            *(checkpoint, planned, self.total_steps, step + 1),
            "; ".join(f"{name} {was[name]} → {value}" for name, value in now.items() if value != was[name])
            or "nothing yet",
            planned,
        )

    def _plan_step(self, step: int, total_steps: int) -> dict[str, str]:
        """What the schedules of a run of so many steps say about the step after `step`."""
        rate = (self.args.learning_rate or 0.0) * self._scale_rate(min(step, total_steps), total_steps)
        momentum = target_momentum(min(step + 1, total_steps), total_steps, self.args.momentum_start)
        made = self.unwrapped_model.objective.synthesises and step in self._plan_synthesis(total_steps)
        return {
            "learning rate": f"{rate:.3g}",
            "target momentum": f"{momentum:.6g}",
            "synthetic negatives": "on" if made else "off",
            **{name: f"{share:.3g}" for name, share in self.plan_token_dropout(step, total_steps).items()},
        }

    def plan_token_dropout(self, step: int, total_steps: int) -> dict[str, float]:
        """Share of tokens that each branch leaves out in the step after `step`, of those that ever leave out any."""
        factor = token_dropout_factor(step, total_steps, self.steps_per_epoch, self.args.token_dropout_cooldown_epochs)
        return {name: share * factor for name, share in self.unwrapped_model.settings.token_dropouts.items()}

    def _plan_synthesis(self, total_steps: int) -> range:
        warmup, cooldown = self.args.synthetic_warmup_epochs, self.args.synthetic_cooldown_epochs
        last = self.args.synthetic_last_epoch
        planned = synthetic_steps(total_steps, self.steps_per_epoch, warmup, cooldown, last)
        if not self.unwrapped_model.starts_with_random_queues:
            return planned
        # A network that is good already would learn from random vectors what is hard.
        filled = math.ceil(self.unwrapped_model.settings.queue_size / self.args.global_batch_size)
        return range(min(max(planned.start, filled), planned.stop), planned.stop)

    @property
    def layer_decay(self) -> float:
        """Rate of a block over that of the one above it."""
        default = 1.0 if self.unwrapped_model.start is None else START_LAYER_DECAY
        return default if self.args.layer_decay is None else self.args.layer_decay

    def count_frozen_steps(self, total_steps: int) -> int:
        """First optimizer steps in which heads learn alone."""
        if self.args.freeze_backbone_epochs is not None:
            return round(self.args.freeze_backbone_epochs * self.steps_per_epoch)
        return round(START_FROZEN_FRACTION * total_steps) if self.unwrapped_model.starts_with_random_heads else 0

    def _scale_rate(self, step: int, total_steps: int) -> float:
        """Factor on the peak learning rate."""
        peak = max(self.args.learning_rate or 0.0, 1e-30)
        warmup = self.args.count_warmup_steps(total_steps, self.steps_per_epoch)
        start, end = self.args.learning_rate_start / peak, self.args.learning_rate_end / peak
        if self.args.learning_rate_curve == AUTHORS_CODE:
            scale = scaled_learning_rate(1.0, self.args.global_batch_size)
            return learning_rate_factor_of_authors(step, total_steps, warmup, start * scale, end * scale)
        return learning_rate_factor(step, total_steps, warmup, start, end)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """AdamW; no weight decay on norms, biases, tokens, embeddings and relative position bias tables."""
        if self.optimizer is None:
            spared = () if self.args.decay_tokens_and_tables else NO_WEIGHT_DECAY
            model, decay = self.unwrapped_model, self.args.weight_decay
            if model.start is None and self.layer_decay == 1 and not self.args.freeze_backbone_epochs:
                groups = param_groups_weight_decay(model, decay, no_weight_decay_list=spared)
            else:
                rate = self.args.learning_rate or 0.0
                groups = make_groups(model, model.synco, decay, rate, self.layer_decay, spared)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Linear warm-up, then a cosine, per optimizer step."""
        if self.lr_scheduler is None:
            optimizer = cast(torch.optim.Optimizer, optimizer or self.optimizer)
            frozen = self.count_frozen_steps(num_training_steps)
            warmup = self.args.count_warmup_steps(num_training_steps, self.steps_per_epoch)

            def scale(step: int) -> float:
                return self._scale_rate(step, num_training_steps)

            def scale_backbone(step: int) -> float:
                return scale(step) * frozen_backbone_factor(step, frozen, warmup)

            with_heads = [frozen > 0 and group.get("part") == BACKBONE for group in optimizer.param_groups]
            self.lr_scheduler = LambdaLR(optimizer, [scale_backbone if later else scale for later in with_heads])
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """One micro-batch: both directions of the objective; the keys go into the queues in the model's forward."""
        inputs = read_batch(inputs)
        if "bad_index" in inputs:
            self._bad_indices.append(inputs["bad_index"])
        view_1, view_2 = finish_views(self.device_views, inputs)
        local_views = finish_local_views(self.device_views, inputs)
        small = {} if local_views is None else {"local_views": local_views}
        output = model(view_1=view_1, view_2=view_2, synthetic_active=self.synthetic_active, **small)
        self.monitor.update(output, inputs["view_1"].shape[0], self.state.global_step)
        return (output.loss, output) if return_outputs else output.loss

    def remember_gradient_norm(self) -> None:
        """Take the norm of the accumulated gradients, to be logged after this step."""
        self._gradient_norm = compute_gradient_norm(p for p in self.unwrapped_model.parameters() if p.requires_grad)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what SynCo-v2 shows to the Trainer's line: the one place where training waits for the device."""
        if "loss" in logs:
            logs |= self.monitor.collect(self.args.world_size)
            logs["momentum"] = target_momentum(self.state.global_step, self.state.max_steps, self.args.momentum_start)
            active = self.unwrapped_model.objective.synthesises and self.state.global_step - 1 in self.synthesis_window
            logs["synthetic_active"] = float(active)
            logs |= self.plan_token_dropout(self.state.global_step - 1, self.state.max_steps)
            queue = self.unwrapped_model.settings.queue_size if self.unwrapped_model.objective.has_queue else None
            logs["num_synthetic"] = float(self.unwrapped_model.synthetic_negatives.num_synthetic) if active else 0.0
            if queue is not None:
                # What the loss is to be read against: both directions of one right key among all candidates.
                guess = compute_chance_loss(queue + logs["num_synthetic"])
                if self.local_crops and not self.unwrapped_model.settings.synthetic_for_local_crops:
                    guess = (guess + self.local_crops * compute_chance_loss(queue)) / (1 + self.local_crops)
                logs["loss_of_guessing"] = guess
            if self._gradient_norm is not None:
                logs["grad_norm"] = float(self._gradient_norm.item())
        # The mean of the whole run comes at its end, also if no step is logged.
        if "loss" in logs or "train_loss" in logs:
            self._count_bad_images()
            self._refuse_bad_loss()
        super().log(logs, start_time)

    def _count_bad_images(self) -> None:
        """Tell the ledger which images were unreadable on any process; it stops the run when there are too many."""
        if self._bad_indices:
            indices = torch.cat(self._bad_indices)
            self._bad_indices = []
            self.ledger.record(self.accelerator.gather(indices).cpu())

    def _refuse_bad_loss(self) -> None:
        """Stop at a loss that is no number.

        Raises:
            FloatingPointError: Naming the step and the last good checkpoint.
        """
        step = self.monitor.first_bad_step()
        if step is not None:
            raise FloatingPointError(
                f"The loss is not finite at step {step}; the last good checkpoint is "
                f"{self.last_good_checkpoint or 'none'}. Lower the learning rate or check the images, then continue "
                "with --resume."
            )

    def evaluate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: there are no labels to measure by."""
        raise ValueError(f"SynCoTrainer does not evaluate: {HOW_TO_MEASURE}.")

    predict = evaluate

    def refuse_broken_weights(self) -> None:
        """As `CheckpointingTrainer.refuse_broken_weights`; the loss of a step tells it a step earlier."""
        self._refuse_bad_loss()
        super().refuse_broken_weights()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Never write a state that forgets an unreadable image."""
        self._count_bad_images()
        if self.stream is not None:
            self.stream.note_places(self.state.global_step // self.steps_per_epoch)
        super()._save_checkpoint(model, trial)

    def describe_run(self) -> dict[str, Any]:
        """What a checkpoint's manifest says about how it was made; JSON values."""
        place = None if self.stream is None else self.stream.position(self.state.global_step % self.steps_per_epoch)
        start = self.unwrapped_model.start
        return {
            **super().describe_run(),
            **({} if start is None else {"start": start}),
            "stream": place,
            "bad_images": self.ledger.indices,
            "augment_on": place_of(self._transform),
        }

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """What the Trainer only warns about would be a silently different run: refuse it."""
        check_complete_state(load_result.missing_keys, load_result.unexpected_keys)
