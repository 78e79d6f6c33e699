"""What no training can do: impossible values, inherited flags without effect, processes that train alone."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers.utils.import_utils import is_torch_bf16_gpu_available

logger = logging.getLogger(__name__)

# Lowest value and whether it may be reached; for all of them a number that is no number is refused too.
LOWEST: dict[str, tuple[float, bool]] = {
    "per_device_train_batch_size": (1, True),
    "per_device_eval_batch_size": (1, True),
    "gradient_accumulation_steps": (1, True),
    "dataloader_num_workers": (0, True),
    "base_learning_rate": (0, True),
    "learning_rate": (0, True),
    "learning_rate_start": (0, True),
    "learning_rate_end": (0, True),
    "weight_decay": (0, True),
    "momentum": (0, True),
    "adam_beta1": (0, True),
    "adam_beta2": (0, True),
    "adam_epsilon": (0, True),
    "max_grad_norm": (0, True),
    "warmup_epochs": (0, True),
    "freeze_backbone_epochs": (0, True),
    "synthetic_warmup_epochs": (0, True),
    "synthetic_cooldown_epochs": (0, True),
    "synthetic_last_epoch": (0, True),
    "token_dropout_cooldown_epochs": (0, True),
    "momentum_start": (0, True),
    "max_bad_fraction": (0, True),
    "knn_every_epochs": (0, False),
    "logging_steps": (0, True),
    "save_steps": (0, False),
}
HIGHEST = dict.fromkeys(("momentum", "adam_beta1", "adam_beta2", "momentum_start", "max_bad_fraction"), 1.0)

_PUBLISH = "publish the finished run with `synco-hub publish`"
_MEASURE = "give --knn-every-epochs to measure on the way"
_LAST_STEP = "the last step is the result, since no labels say which is best"
_ORDER = "--seed draws the order, another one in each epoch"
_TRAINS = "this command trains; measure a finished run with `synco-hub evaluate`"
_LANGUAGE = "it is for language models"
_OWN_LOOP = "the test split is measured as a whole, see --eval-strategy"
_AUTOCAST = "give --bf16, which holds for training and measuring"
_CURVE = "the learning rate warms up and follows a cosine, see --warmup-epochs"
_SGD = "it learns by SGD (7.5, 7.6), see --momentum and --weight-decay"
# Flags of `transformers.TrainingArguments`, which every training here inherits and does otherwise, with what to do
# instead. All others have their effect and stand in `HAVE_EFFECT`; a test compares both lists with transformers.
_DONE_OTHERWISE = {
    "warmup_steps": "give --warmup-epochs",
    "do_train": _TRAINS,
    "do_predict": _TRAINS,
    "push_to_hub": _PUBLISH,
    "hub_token": _PUBLISH,
    "hub_model_id": _PUBLISH,
    "hub_private_repo": _PUBLISH,
    "hub_always_push": _PUBLISH,
    "hub_strategy": _PUBLISH,
    "hub_revision": _PUBLISH,
    "auto_find_batch_size": "schedules and order count in the batch; lower --per-device-train-batch-size and raise "
    "--gradient-accumulation-steps",
    "data_seed": "--seed draws the order too",
    "train_sampling_strategy": _ORDER,
    "length_column_name": _ORDER,
    "optim_target_modules": "all trained weights are the optimizer's, see --optim",
    "average_tokens_across_devices": _LANGUAGE,
    "neftune_noise_alpha": _LANGUAGE,
    "use_cache": _LANGUAGE,
    "use_liger_kernel": _LANGUAGE,
    "liger_kernel_config": _LANGUAGE,
    "enable_jit_checkpoint": "SIGTERM and Ctrl-C save a checkpoint anyway",
    "label_names": "targets are no columns here",
    "bf16_full_eval": _AUTOCAST,
    "fp16_full_eval": _AUTOCAST,
    "eval_do_concat_batches": _OWN_LOOP,
    "eval_use_gather_object": _OWN_LOOP,
    "eval_accumulation_steps": _OWN_LOOP,
    "prediction_loss_only": _OWN_LOOP,
    "include_for_metrics": _OWN_LOOP,
    "batch_eval_metrics": _OWN_LOOP,
}
_NO_LOOP = {name: _MEASURE for name, remedy in _DONE_OTHERWISE.items() if remedy in (_OWN_LOOP, _AUTOCAST)}
PRETRAINING_DOES_OTHERWISE = {
    **_DONE_OTHERWISE,
    **_NO_LOOP,
    "lr_scheduler_type": f"{_CURVE} and --learning-rate-end (7.4)",
    "lr_scheduler_kwargs": f"{_CURVE} and --learning-rate-end (7.4)",
    "eval_strategy": _MEASURE,
    "eval_steps": _MEASURE,
    "eval_delay": _MEASURE,
    "eval_on_start": _MEASURE,
    "do_eval": _MEASURE,
    "per_device_eval_batch_size": _MEASURE,
    "load_best_model_at_end": _LAST_STEP,
    "metric_for_best_model": _LAST_STEP,
    "greater_is_better": _LAST_STEP,
    "dataloader_drop_last": "BatchNorm and the schedules need full batches",
    "remove_unused_columns": "the views are no columns of the model",
    "save_only_model": "a run could not be continued from such a checkpoint",
    "ignore_data_skip": "a continued run would see other images than one that was not stopped",
    "label_smoothing_factor": "pretraining has no labels",
}
FINE_TUNING_DOES_OTHERWISE = {
    **_DONE_OTHERWISE,
    "lr_scheduler_type": f"{_CURVE} (7.6)",
    "lr_scheduler_kwargs": f"{_CURVE} (7.6)",
    "optim": _SGD,
    "optim_args": _SGD,
    "optim_target_modules": _SGD,
    "adam_beta1": _SGD,
    "adam_beta2": _SGD,
    "adam_epsilon": _SGD,
    "do_eval": "the test split is measured in any case; --eval-strategy says when",
    "label_smoothing_factor": "give --label-smoothing",
    "remove_unused_columns": "targets are no columns of the model",
}
_FROZEN = "the network is frozen and keeps nothing for a backward pass"
LINEAR_PROBE_DOES_OTHERWISE = {
    **FINE_TUNING_DOES_OTHERWISE,
    "activation_checkpointing": _FROZEN,
    "activation_checkpointing_kwargs": _FROZEN,
    "gradient_checkpointing": _FROZEN,
    "gradient_checkpointing_kwargs": _FROZEN,
}
# What changes a run, its speed or what is told of it, in at least one of the trainings.
HAVE_EFFECT = {
    *("output_dir", "per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate", "optim"),
    *("optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "gradient_accumulation_steps"),
    *("max_grad_norm", "bf16", "fp16", "tf32", "activation_checkpointing", "activation_checkpointing_kwargs"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend"),
    *("torch_compile_mode", "torch_empty_cache_steps", "logging_strategy", "logging_steps", "logging_first_step"),
    *("log_on_each_node", "logging_nan_inf_filter", "include_num_input_tokens_seen", "log_level"),
    *("log_level_replica", "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id"),
    *("trackio_bucket_id", "trackio_static_space_id", "eval_strategy", "eval_steps", "eval_delay"),
    *("per_device_eval_batch_size", "eval_on_start", "save_only_model", "save_strategy", "save_steps"),
    *("save_on_each_node", "save_total_limit", "load_best_model_at_end", "metric_for_best_model"),
    *("greater_is_better", "ignore_data_skip", "restore_callback_states_from_checkpoint", "full_determinism"),
    *("seed", "use_cpu", "accelerator_config", "parallelism_config", "dataloader_drop_last"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"),
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend"),
    *("ddp_timeout", "fsdp", "fsdp_config", "deepspeed", "debug", "skip_memory_metrics", "local_rank"),
    *("resume_from_checkpoint",),
}
# Numbers whose default in transformers is not what is done here: given, they are refused as any other value is.
_NOT_AS_DEFAULT = ("warmup_steps", "label_smoothing_factor", "adam_beta1", "adam_beta2", "adam_epsilon", "eval_delay")

# Where launchers say how many processes they started.
_LAUNCHED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE")


def refuse_impossible(values: Mapping[str, Any]) -> None:
    """Refuses values that no run can have."""
    for name, (lowest, reached) in LOWEST.items():
        value = values.get(name)
        if value is None or isinstance(value, str):
            continue
        highest = HIGHEST.get(name, math.inf)
        within = lowest <= value <= highest and math.isfinite(value) and (reached or value > lowest)
        if not within:
            rule = f"{'at least' if reached else 'more than'} {lowest:g}"
            rule += f" and at most {highest:g}" if name in HIGHEST else ""
            raise ValueError(f"--{name.replace('_', '-')} {value:g}: give {rule}.")
    epochs, steps = float(values["num_train_epochs"]), values["max_steps"]
    if steps == 0 or steps < -1:
        raise ValueError(f"--max-steps {steps}: give at least 1, or leave it out to count in --num-train-epochs.")
    if not math.isfinite(epochs) or (steps == -1 and epochs <= 0):
        raise ValueError(f"--num-train-epochs {epochs:g}: give more than 0, or --max-steps.")


def refuse_ignored(values: Mapping[str, Any], defaults: Mapping[str, Any], otherwise: Mapping[str, str]) -> None:
    """Refuses inherited flags that a training does otherwise."""
    for name, remedy in otherwise.items():
        if name in defaults and values[name] != defaults[name]:
            raise ValueError(f"--{name.replace('_', '-')} {values[name]} is not for this training: {remedy}.")


def list_defaults(kind: type) -> dict[str, Any]:
    """What the fields of a dataclass are where nothing is given."""
    fields = [field for field in dataclasses.fields(kind) if field.init]
    return {f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory() for f in fields}


def refuse_given(given: Mapping[str, Any], otherwise: Mapping[str, str]) -> None:
    """Refuses flags that a command line names although their default already is not what a training does."""
    for name in _NOT_AS_DEFAULT:
        if name in given and name in otherwise:
            raise ValueError(f"--{name.replace('_', '-')} {given[name]} is not for this training: {otherwise[name]}.")


def count_launched_processes() -> int:
    """How many processes a launcher says it started: 1 without a launcher."""
    said = (os.environ.get(name, "") for name in _LAUNCHED)
    return next((int(number) for number in said if number.isdecimal()), 1)


def choose_cpu_without_gpu(use_cpu: bool) -> bool:
    """Whether to train on the CPU: several processes find each other on an accelerator, or when told to use none."""
    launched = count_launched_processes()
    if use_cpu or launched == 1 or torch.accelerator.is_available():
        return use_cpu
    if os.environ.get("RANK", "0") == "0":
        logger.warning("no GPU is visible: %d processes train together on the CPU", launched)
    return True


def refuse_missing_bfloat16(use_cpu: bool) -> None:
    """Refuses `--bf16` on an accelerator that cannot compute in it, and says where it only pretends to."""
    if use_cpu:
        return
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else str(torch.accelerator.current_accelerator())
    if not is_torch_bf16_gpu_available():
        raise ValueError(f"--bf16: {name} has no bfloat16: leave it out, or give --fp16 (or --use-cpu).")
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        logger.warning("--bf16: %s emulates bfloat16, slowly; --fp16 is what it is fast in", name)


def refuse_separate_processes(world_size: int) -> None:
    """Refuses a process of several that would train alone, into the same folder as the others."""
    launched = count_launched_processes()
    if launched != world_size:
        raise ValueError(
            f"{launched} processes were launched (WORLD_SIZE), and this one finds {world_size}, so each would train "
            "by itself: launch them by --num-processes or torchrun, add --use-cpu where there is no GPU for each, or "
            "unset WORLD_SIZE for a single process."
        )
