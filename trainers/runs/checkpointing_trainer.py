"""`CheckpointingTrainer`: `transformers.Trainer` whose checkpoints are complete or absent, on every process alike."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerState, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from synco_hub.data import ImageDataset, StreamedImages
from synco_hub.data.samplers import derive_random_key
from synco_hub.data.worker_signals import worker_settings
from synco_hub.errors import explain_out_of_memory
from synco_hub.hub.run_checkpoints import latest_valid_checkpoint, read_manifest
from synco_hub.results import library_versions
from trainers.callbacks import ContinuedTensorBoardCallback
from trainers.runs.checkpoints import (
    UNFINISHED,
    check_continuation,
    commit_checkpoint,
    describe_images,
    find_named_checkpoint,
    later_checkpoints,
    remove_unfinished,
    rotate_checkpoints,
    set_aside,
)
from trainers.runs.interruption import InterruptionCallback
from trainers.runs.optimizer_state import EXECUTION, describe_optimizer, refuse_other_optimizer, settings_of

logger = logging.getLogger(__name__)


class CheckpointingTrainer(Trainer):
    """Writes checkpoints that survive being killed, finds the newest, stops cleanly on SIGTERM and Ctrl-C.

    Arguments are those of `transformers.Trainer`.

    Attributes:
        interruption: Knows whether a signal stopped the run.
        last_good_checkpoint: The newest checkpoint of this run that is complete, or None.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._saving_to: Path | None = None
        self.last_good_checkpoint: str | None = None
        self._earlier_seconds = 0.0
        self._started: float | None = None
        # Checkpoints that this training did not write and does not continue, until they are out of its way.
        self._in_the_way: list[Path] = []
        super().__init__(*args, **kwargs)
        self.interruption = InterruptionCallback()
        self.add_callback(self.interruption)
        if self.pop_callback(TensorBoardCallback) is not None:
            self.add_callback(ContinuedTensorBoardCallback())  # type: ignore[no-untyped-call]

    def describe_run(self) -> dict[str, Any]:
        """What a checkpoint's manifest says about how it was made; JSON values."""
        args = self.args
        return {
            "step": self.state.global_step,
            "seconds": round(self.seconds, 3),
            "world_size": args.world_size,
            "global_batch_size": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "num_images": len(cast(Any, self.train_dataset)),
            "seed": args.seed,
            "data": self._data,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "num_workers": args.dataloader_num_workers,
            "precision": self.precision,
            "optimizer": self.describe_optimizer(),
            "versions": library_versions(),
        }

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch, over all processes."""
        args, images = self.args, len(cast(Any, self.train_dataset))
        batches = images / (args.per_device_train_batch_size * args.world_size)
        batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
        return max(math.ceil(batches / args.gradient_accumulation_steps), 1)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        steps = self.args.max_steps
        return steps if steps > 0 else math.ceil(self.args.num_train_epochs * self.steps_per_epoch)

    @cached_property
    def _data(self) -> dict[str, Any] | None:
        """What is known of the training images, where they are the package's own."""
        images = getattr(self.train_dataset, "images", None)
        if not isinstance(images, ImageDataset) or isinstance(images, StreamedImages):
            return None
        return describe_images(images)

    @property
    def resumes(self) -> bool:
        """Whether the arguments ask to continue a run."""
        return bool(getattr(self.args, "resume", False) or self.args.resume_from_checkpoint)

    @property
    def precision(self) -> str:
        """The arithmetic that autocast really uses, whoever asked for it."""
        return self.accelerator.mixed_precision if self.accelerator.native_amp else "fp32"

    def describe_optimizer(self) -> dict[str, Any] | None:
        """Class and settings that the optimizer holds, peak rates in place of the step's; None before there is one."""
        return None if self.optimizer is None else describe_optimizer(self.optimizer)

    def find_latest_checkpoint(self) -> str | None:
        """The newest complete checkpoint of the output directory, the same on every process, or None.

        Raises:
            ValueError: If it cannot be continued with these arguments.
        """

        def look() -> Path | None:
            remove_unfinished(self._directory)
            return latest_valid_checkpoint(self._directory)

        checkpoint = self._find_for_all(look)
        if checkpoint is not None:
            self.check_checkpoint(checkpoint)
        return checkpoint

    def _find_for_all(self, look: Callable[[], Path | None]) -> str | None:
        """What the main process finds, or its refusal, on every process."""
        answer: list[str | None] = [None, None]
        if self.is_world_process_zero():
            try:
                found = look()
                answer[0] = None if found is None else str(found)
            except ValueError as error:
                answer[1] = str(error)
        if self.args.world_size > 1:
            broadcast_object_list(answer)
        if answer[1] is not None:
            raise ValueError(answer[1])
        return answer[0]

    def check_checkpoint(self, checkpoint: str) -> None:
        """Take over what a checkpoint says of its run.

        Raises:
            ValueError: If it cannot be continued with these arguments.
        """
        manifest = read_manifest(Path(checkpoint))
        check_continuation(Path(checkpoint), manifest, self.describe_run())
        self._earlier_seconds = float(manifest.get("seconds", 0.0))
        self.last_good_checkpoint = checkpoint

    def _choose_checkpoint(self, wanted: str | Path | bool | None) -> str | None:
        """What to continue: as `train` was told, else as the arguments say."""
        if wanted is None:
            wanted = self.args.resume_from_checkpoint or self.resumes
        if wanted is False:
            return None
        if wanted is True:
            checkpoint = self.find_latest_checkpoint()
        else:
            named = Path(wanted)
            checkpoint = self._find_for_all(lambda: find_named_checkpoint(named))
            assert checkpoint is not None
            self.check_checkpoint(checkpoint)
        if self.is_world_process_zero():
            logger.warning("resuming from %s", checkpoint or "the beginning: there is no complete checkpoint")
        return checkpoint

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training so far, those before the checkpoint it continues included."""
        return self._earlier_seconds + (0.0 if self._started is None else time.perf_counter() - self._started)

    def _take_finished(self, checkpoint: str) -> TrainOutput:
        """Take over model and log of a checkpoint of the last step: the Trainer would take one step more."""
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if self.is_world_process_zero():
            logger.warning("%s is of the last of %d steps: there is nothing to train.", checkpoint, self.total_steps)
        losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        return TrainOutput(self.state.global_step, losses[-1] if losses else math.nan, {})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """As the Trainer, under every name that `save_pretrained` writes."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_renamed(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """As the Trainer, under every name that `save_pretrained` writes."""
        super()._load_best_model()
        self._load_renamed(Path(str(self.state.best_model_checkpoint)))

    def _load_renamed(self, checkpoint: Path) -> None:
        """Take over weights that have other names in the file than in memory, as stock ViTs do.

        `save_pretrained` writes the names of older releases; the Trainer leaves out what it does not find, unsaid.
        """
        network = self.accelerator.unwrap_model(self.model)
        if not isinstance(network, PreTrainedModel) or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        names: set[str] = set()
        for file in checkpoint.glob("model*.safetensors"):
            with safe_open(file, "pt") as weights:
                names |= set(weights.keys())
        if names and not set(network.state_dict()) <= names:
            network.load_state_dict(type(network).from_pretrained(checkpoint, dtype=network.dtype).state_dict())

    @property
    def _directory(self) -> Path:
        return Path(str(self.args.output_dir))

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `transformers.Trainer.train`, guarded; signals are given back to the caller also after an error.

        Args:
            resume_from_checkpoint: True continues the newest complete checkpoint of the output directory, if there is
                one; a path that checkpoint, or the newest of that run; False begins anew; None does as the arguments
                say. A run that is at its end stays as it is.
            *args: As `transformers.Trainer.train`.
            **kwargs: As `transformers.Trainer.train`.

        Raises:
            ValueError: If what is named is damaged, or was made with other arguments.
        """
        checkpoint = self._choose_checkpoint(resume_from_checkpoint)
        step = 0 if checkpoint is None else int(read_manifest(Path(checkpoint))["step"])
        if checkpoint is not None and step >= self.total_steps:
            return self._take_finished(checkpoint)
        self._warn_of_other_checkpoints(step)
        if self.args.world_size > 1:
            # Weights were drawn alike everywhere; drop path and synthesis shall not be.
            seed_process(self.args.seed, self.args.process_index, 0)
        self._started = time.perf_counter()
        try:
            with explain_out_of_memory(self.describe_load):
                return super().train(checkpoint, *args, **kwargs)
        finally:
            self.interruption.stop_listening()

    def describe_load(self) -> tuple[str, str]:
        """What did not fit the device's memory, and what would."""
        network: Any = self.accelerator.unwrap_model(self.model)
        return cast(Any, self.args).describe_load(network, False, not network.training)  # type: ignore[no-any-return]

    def _warn_of_other_checkpoints(self, step: int) -> None:
        """Say what will become of whole checkpoints that lie after the step at which this training begins."""
        self._in_the_way = later_checkpoints(self._directory, step) if self.is_world_process_zero() else []
        if self._in_the_way:
            logger.warning(
                "%s holds %s, which this training does not continue: its first checkpoint moves them into a folder "
                "beside. To continue the newest, stop, and train(resume_from_checkpoint=True).",
                *(self._directory, ", ".join(path.name for path in self._in_the_way)),
            )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's loader, whose workers leave signals to the main process."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        # accelerate iterates the loader within its own, and makes a new one of what its own says to skip batches.
        context = self.args.dataloader_multiprocessing_context
        settings = worker_settings(loader.num_workers, loader.worker_init_fn, context)
        for part in (loader, getattr(loader, "base_dataloader", loader)):
            part.worker_init_fn = settings["worker_init_fn"]
            part.multiprocessing_context = settings["multiprocessing_context"]
        return loader

    def _get_output_dir(self, trial: Any) -> str:
        """While a checkpoint is being written, a folder in which nobody looks for one."""
        return super()._get_output_dir(trial) if self._saving_to is None else str(self._saving_to)

    def refuse_broken_weights(self) -> None:
        """Stop on every process before weights are kept that a NaN has reached, whatever was logged.

        Raises:
            FloatingPointError: Naming the step, a tensor and the last good checkpoint.
        """
        weights: dict[str, Tensor] = cast(nn.Module, self.accelerator.unwrap_model(self.model)).state_dict()
        floats = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}
        # One transfer: asking for each tensor would make the device wait as often.
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in floats.values()]).tolist()
        broken = [name for name, good in zip(floats, finite, strict=True) if not good]
        found = [broken] if self.args.world_size == 1 else gather_object([broken])
        first = next((names for names in found if names), None)
        if first is not None:
            raise FloatingPointError(
                f"{len(first)} of {len(floats)} weights are not finite after step {self.state.global_step} (such as "
                f"{first[0]}), so they are not saved; the last good checkpoint is "
                f"{self.last_good_checkpoint or 'none'}. Lower the learning rate or check the images, then continue "
                "with --resume."
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `transformers.Trainer.save_model`, of finite weights only."""
        if not _internal_call:
            self.refuse_broken_weights()
        super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write beside, and rename when every process has written its part."""
        self.refuse_broken_weights()
        name = f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            remove_unfinished(self._directory)
        self.accelerator.wait_for_everyone()
        self._saving_to = self._directory / UNFINISHED
        failure = None
        try:
            super()._save_checkpoint(model, trial)
        # torch reports a full disk as RuntimeError, safetensors as its own kind.
        except (OSError, RuntimeError, SafetensorError) as error:
            failure = str(error)
        finally:
            self._saving_to = None
        self._refuse_failed_save(name, failure)
        best = f"checkpoint-{self.state.best_global_step}" if self.state.best_global_step else None
        # The Trainer noted where the best checkpoint was being written.
        self.state.best_model_checkpoint = best and str(self._directory / best)
        if self.is_world_process_zero():
            try:
                set_aside(self._in_the_way)
                self._in_the_way = []
                self.state.save_to_json(str(self._directory / UNFINISHED / name / TRAINER_STATE_NAME))
                commit_checkpoint(self._directory / UNFINISHED / name, self._directory / name, self.describe_run())
                rotate_checkpoints(self._directory, self.args.save_total_limit, best)
                remove_unfinished(self._directory)
            except OSError as error:
                failure = str(error)
        self._refuse_failed_save(name, failure)
        self.last_good_checkpoint = str(self._directory / name)

    def _refuse_failed_save(self, name: str, failure: str | None) -> None:
        """Stop on every process if one could not write."""
        failures = [failure] if self.args.world_size == 1 else gather_object([failure])
        first = next((text for text in failures if text is not None), None)
        if first is None:
            return
        if self.is_world_process_zero():
            remove_unfinished(self._directory)
        free = shutil.disk_usage(self._directory).free / 1e9
        raise OSError(
            f"{self._directory / name} could not be written ({first.splitlines()[0]}; {free:.1f} GB are free): the "
            f"last complete one is {self.last_good_checkpoint or 'none'}. Make room, then continue with --resume."
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The optimizer's state; its settings are those of this run, as the records say, and a change is said."""
        optimizer, schedule = cast(torch.optim.Optimizer, self.optimizer), self.lr_scheduler
        if checkpoint is None or not isinstance(schedule, LambdaLR) or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        before = [settings_of(group) for group in optimizer.param_groups]
        if not self.is_fsdp_enabled:
            refuse_other_optimizer(Path(checkpoint), optimizer)
        super()._load_optimizer_and_scheduler(checkpoint)
        changed = {}
        for group, settings in zip(optimizer.param_groups, before, strict=True):
            for name, value in settings.items():
                was = settings_of(group).get(name)
                if was != value and name not in EXECUTION:
                    changed[name] = f"{name} {was} → {value}"
                group["initial_lr" if name == "lr" else name] = value
        # The schedule, too, kept the rates of the run that was stopped.
        schedule.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        rates = zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, base, factor in rates:
            group["lr"] = base * factor(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in optimizer.param_groups]
        if changed and self.is_world_process_zero():
            logger.warning("continuing with other settings of the optimizer: %s", ", ".join(changed.values()))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The random state of this process; one that the checkpoint does not know draws what no other drew."""
        if checkpoint is not None and not (Path(checkpoint) / self._rng_file).is_file():
            seed_process(self.args.seed, self.args.process_index, self.state.global_step)
            return
        super()._load_rng_state(checkpoint)

    @property
    def _rng_file(self) -> str:
        return "rng_state.pth" if self.args.world_size == 1 else f"rng_state_{self.args.process_index}.pth"


def seed_process(seed: int, process_index: int, step: int) -> None:
    """Seed every generator of this process, another way than those of the other processes."""
    set_seed(derive_random_key(seed, process_index, step) % 2**32)
