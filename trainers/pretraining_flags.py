"""The flags of pretraining, from recipe, fidelity and command line, as one run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from synco_hub.errors import suggest
from synco_hub.models import SynCoConfig
from trainers.data_arguments import BackboneArguments, DataArguments
from trainers.fidelity import AUTHORS_CODE, PAPER, fidelity_settings
from trainers.pretraining_arguments import PretrainingSettings, SynCoTrainingArguments
from trainers.runs.flag_parser import FlagParser
from trainers.runs.recipe import as_flags, recipe_flags

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

    def __post_init__(self) -> None:
        """Refuses flags that would be ignored."""
        if self.training.knn_every_epochs is not None:
            return
        for name in ("knn_dataset", "knn_images"):
            if getattr(self.data, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is for --knn-every-epochs: add that, or leave it out.")

    def recorded(self, config: SynCoConfig, data: dict[str, Any]) -> dict[str, Any]:
        """What tells this run from another, and how it was trained.

        Args:
            config: Of the network.
            data: Description of the training images.
        """
        backbone = {name: getattr(config, name) for name in vars(self.backbone)}
        training = {
            name: getattr(self.training, name)
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
        training["fidelity"] = self.fidelity
        return {
            "pretraining": dataclasses.asdict(self.settings),
            "backbone": backbone,
            "data": data,
            "seed": self.training.seed,
            "training": training,
        }


def parse(argv: Sequence[str]) -> PretrainingRun:
    """Turn flags into a run; a recipe's flags come first, so that the user's own win.

    Raises:
        ValueError: If a value is impossible or the recipe unknown.
    """
    parser = FlagParser(
        cast(Any, (PretrainingSettings, BackboneArguments, DataArguments, SynCoTrainingArguments)),
        prog="synco-hub pretrain",
        description="Pretrain a vision transformer by SynCo-v2, MoBY or BYOL (paper section 7.4).",
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
