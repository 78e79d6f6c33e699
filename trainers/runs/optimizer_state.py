"""What an optimizer holds, for the records of a run, and whether it can go on from the state of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import OPTIMIZER_NAME

from synco_hub.hub.run_checkpoints import read_manifest

# Settings of an optimizer that say how it computes, not what.
EXECUTION = ("fused", "foreach", "capturable", "differentiable", "decoupled_weight_decay", "maximize")


def describe_optimizer(optimizer: Any) -> dict[str, Any]:
    """Class and settings that an optimizer holds, peak rates in place of the step's."""
    groups = [settings_of(group) for group in optimizer.param_groups]
    names = [name for name in ("lr", "weight_decay", "betas", "eps", "momentum") if name in groups[0]]
    shared = {name: list(dict.fromkeys(group[name] for group in groups)) for name in names}
    held: dict[str, Any] = {name: values[0] if len(values) == 1 else values for name, values in shared.items()}
    return {"class": type(getattr(optimizer, "optimizer", optimizer)).__name__, **held}


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a group of weights; `lr` is the peak rate, which the schedule scales."""
    settings = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
    return {**settings, "lr": group.get("initial_lr", group["lr"])}


def refuse_other_optimizer(checkpoint: Path, optimizer: Any) -> None:
    """Refuses the state of another optimizer, or of one that holds other weights together."""
    file = checkpoint / OPTIMIZER_NAME
    if not file.is_file():
        raise ValueError(
            f"{checkpoint} has no {OPTIMIZER_NAME} (--save-only-model leaves it out), so it cannot be continued: "
            "start a new run from its weights."
        )
    groups = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["param_groups"]
    inner = getattr(optimizer, "optimizer", optimizer)
    name, was = type(inner).__name__, (read_manifest(checkpoint).get("optimizer") or {}).get("class")
    known = {"betas", "momentum", "alpha", "rho", "lr_decay"}
    if (was or name) != name or known & set(groups[0]) != known & set(inner.param_groups[0]):
        raise ValueError(
            f"{checkpoint} holds the state of {was or 'another optimizer'}, which {name} cannot go on from: give "
            "the --optim that the run was started with, or start a new run."
        )
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in inner.param_groups]:
        raise ValueError(
            f"{checkpoint} holds the state of an optimizer that decays other weights: give "
            "--decay-tokens-and-tables as the run was started with, or start a new run."
        )
