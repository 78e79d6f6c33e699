"""From recipe, fidelity and command line to one run of pretraining.

A recipe is a YAML file of flags, nothing but what differs from the defaults. A file holds one recipe, or a set of
them: what all share under `base`, and under `variants` one mapping a name. A variant is called `file/variant`. What
stands under `paper` is the paper's number where the authors' code has another: it is left out under that fidelity.

A fidelity says whom to follow where the paper and the authors' published code differ: the paper is the default, the
code a group of flags. What a recipe names wins over the group, what the user names over both. What no flag can say
stays with the paper: the authors' step counter ignores the number of processes, so their window of synthesis moves
with it; ours counts global steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from synco_hub.errors import suggest
from synco_hub.models import SynCoConfig
from synco_hub.settings import DatasetChoice
from trainers.command import drop_flags, list_beaten, list_flags, parse_flags, recall_flags, split_flags, tell_left_out
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.runs.checkpoints import SETTINGS_FILE
from trainers.settings import (
    AUTHORS_CODE,
    DEFAULT_BACKBONE,
    PAPER,
    BackboneArguments,
    DataArguments,
    PretrainingOptions,
    PretrainingSettings,
    RecipeArguments,
)
from trainers.start_settings import START_RATE_FACTOR, StartArguments
from trainers.token_dropout import refuse_idle_cooldown
from trainers.view_settings import ViewArguments

KINDS = (
    PretrainingSettings,
    RecipeArguments,
    StartArguments,
    BackboneArguments,
    ViewArguments,
    DataArguments,
    SynCoTrainingArguments,
)
FIDELITIES = (PAPER, AUTHORS_CODE)
RECIPES = Path(__file__).resolve().parent / "recipes"
_SET = {"base", "variants"}


def list_recipes() -> list[str]:
    """Names of the recipes that the package carries."""
    names: list[str] = []
    for path in sorted(RECIPES.glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        names += [f"{path.stem}/{name}" for name in values["variants"]] if _is_set(values) else [path.stem]
    return names


def read_recipe(name_or_path: str, known: Sequence[str], fidelity: str = PAPER) -> list[str]:
    """Read a recipe as command-line flags, to be put before the user's own, which win."""
    settings = _settings(name_or_path)
    papers = settings.pop(PAPER, {})
    return to_flags(settings | (papers if fidelity == PAPER else {}), known, f"recipe {name_or_path}")


def to_flags(settings: Mapping[str, Any], known: Sequence[str], origin: str) -> list[str]:
    """Settings as command-line flags."""
    flags: list[str] = []
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise ValueError(f"{origin} has an unknown key {key!r}.{suggest(name, known)}")
        flags += [f"--{name}", *(_words(value))]
    return flags


def _settings(name_or_path: str) -> dict[str, Any]:
    """What a recipe sets, by name of the flag."""
    path, variant = Path(name_or_path), None
    if path.suffix not in (".yaml", ".yml"):
        file, _, variant = name_or_path.partition("/")
        path = RECIPES / f"{file}.yaml"
    if not path.is_file():
        raise _unknown(name_or_path)
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path} is a {type(values).__name__}: write one `flag: value` a line.")
    if not _is_set(values):
        if variant:
            raise _unknown(name_or_path)
        return values
    if variant not in values["variants"]:
        raise _unknown(name_or_path)
    return {**values["base"], **(values["variants"][variant] or {})}


def _is_set(values: Any) -> bool:
    return isinstance(values, dict) and set(values) == _SET


def _unknown(name: str) -> ValueError:
    nearest = suggest(name, list_recipes())
    plain = [known for known in list_recipes() if "/" not in known]
    variants = [known for known in list_recipes() if "/" in known]
    sets = sorted({known.split("/")[0] for known in variants})
    return ValueError(
        f"recipe {name!r} does not exist: use one of {', '.join(plain)}, a variant of {', '.join(sets)} (such as "
        f"{variants[0]}), or the path of a YAML file.{nearest}"
    )


def _words(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


# Flags of the authors' code for every run, then for a method, then for a backbone.
_COMMON: Mapping[str, Any] = {
    "base_learning_rate": 1e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 5,
    "learning_rate_curve": AUTHORS_CODE,
    "learning_rate_start": 5e-7,
    "learning_rate_end": 5e-6,
    "max_grad_norm": 5.0,
    "decay_tokens_and_tables": True,
}
_OF_METHOD: Mapping[str, Mapping[str, Any]] = {
    "synco-v2": {
        "num_gradient_perturbation": 64,
        "num_adversarial_perturbation": 64,
        "num_noise_injection": 64,
        "noise_std": 0.1,
        # Epochs 30 to 100, both included, whatever the length of the run.
        "synthetic_warmup_epochs": 30,
        "synthetic_last_epoch": 100,
    },
    "byol": {
        "base_learning_rate": 2e-4,
        "weight_decay": 0.03,
        "momentum_start": 0.996,
        "online_drop_path_rate": 0.2,
        "gradient_accumulation_steps": 1,
    },
}
_OF_BACKBONE: Mapping[str, Mapping[str, Any]] = {"deit-s": {"num_heads": 12}}


def choose_fidelity_settings(fidelity: str, method: str, backbone: str) -> dict[str, Any]:
    """What a fidelity sets, by name of the flag; nothing for the paper, which is the default everywhere."""
    if fidelity not in FIDELITIES:
        raise ValueError(
            f"fidelity={fidelity!r} is unknown: use one of {', '.join(FIDELITIES)}.{suggest(fidelity, FIDELITIES)}"
        )
    if fidelity == PAPER:
        return {}
    return {**_COMMON, **_OF_METHOD.get(method, {}), **_OF_BACKBONE.get(backbone, {})}


@dataclass(frozen=True)
class PretrainingRun:
    """Everything a run was asked for."""

    settings: PretrainingSettings
    backbone: BackboneArguments
    data: DataArguments
    training: SynCoTrainingArguments
    fidelity: str = PAPER
    start: StartArguments = dataclasses.field(default_factory=StartArguments)
    views: ViewArguments = dataclasses.field(default_factory=ViewArguments)

    def __post_init__(self) -> None:
        """Refuses flags that would be ignored."""
        refuse_idle_cooldown(self.settings, self.training)
        if self.start.save_average and self.data.keep_dataset is None:
            raise ValueError("--save-average needs the domain of the start: name it by --keep-dataset.")
        if self.training.knn_every_epochs is not None:
            return
        for name in ("knn_dataset", "keep_dataset", "knn_images"):
            if getattr(self.data, name) is not None and not (name == "keep_dataset" and self.start.save_average):
                raise ValueError(f"--{name.replace('_', '-')} is for --knn-every-epochs: add that, or leave it out.")

    @property
    def domains(self) -> dict[str, DatasetChoice]:
        """What is learnt now, and what is not to be forgotten, each with classes to measure it by."""
        data = self.data
        new = {field.name: getattr(data, field.name) for field in dataclasses.fields(DatasetChoice)}
        if data.knn_dataset is not None:
            new = {"dataset": data.knn_dataset, "data_dir": data.knn_data_dir, "split_seed": data.split_seed}
        found = {"new": DatasetChoice(**new)}
        if data.keep_dataset is not None:
            found["kept"] = DatasetChoice(data.keep_dataset, data.keep_data_dir, split_seed=data.split_seed)
        return found

    def recorded(self, config: SynCoConfig, data: dict[str, Any]) -> dict[str, Any]:
        """What tells this run from another, and how it was trained."""
        backbone = {name: getattr(config, name) for name in vars(self.backbone)}
        training = {
            name: getattr(self.training, name)
            for name in (
                "num_train_epochs",
                "max_steps",
                "learning_rate",
                "base_learning_rate",
                "layer_decay",
                "freeze_backbone_epochs",
                "weight_decay",
                "warmup_epochs",
                "learning_rate_curve",
                "momentum_start",
                "synthetic_warmup_epochs",
                "synthetic_cooldown_epochs",
                "synthetic_last_epoch",
                "token_dropout_cooldown_epochs",
                "augment_on",
                "per_device_train_batch_size",
                "gradient_accumulation_steps",
                "global_batch_size",
                "world_size",
            )
        }
        if self.training.max_steps > 0:
            training["num_train_epochs"] = None
        if self.training.given_learning_rate is not None:
            training["base_learning_rate"] = None
        training["fidelity"] = self.fidelity
        return {
            **({"views": self.views.changed()} if self.views.changed() else {}),
            "pretraining": dataclasses.asdict(self.settings),
            "backbone": backbone,
            "data": data,
            "seed": self.training.seed,
            "training": training,
        }


def parse(argv: Sequence[str]) -> PretrainingRun:
    """Turn flags into a run; a recipe's flags come first, so that the user's own win."""
    words = _insert_groups(list(argv), recall_flags(argv, SETTINGS_FILE))
    tell_left_out(argv, words, SETTINGS_FILE)
    settings, recipe, start, backbone, views, data, training = parse_flags(KINDS, words, argv)
    return PretrainingRun(settings, backbone, data, training, recipe.fidelity, start, views)


def _insert_groups(argv: list[str], kept: list[str]) -> list[str]:
    """The flags of a resumed run, of a fidelity, of a recipe, and the user's own: what stands later wins."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("recipe", "fidelity", "method", "backbone"):
        first.add_argument(f"--{name}")
    known = list_flags(KINDS)
    given = first.parse_known_args(argv)[0]
    if kept and not (given.fidelity or given.recipe):
        return [*kept, *argv]  # among what is kept stand the flags of its own recipe and fidelity
    flags = read_recipe(given.recipe, known) if given.recipe else []
    chosen = first.parse_known_args([*kept, *flags, *argv])[0]
    method, backbone = chosen.method or PretrainingSettings.method, chosen.backbone or DEFAULT_BACKBONE
    fidelity = chosen.fidelity or PAPER
    group = choose_fidelity_settings(fidelity, method, backbone)
    if given.recipe:
        flags = drop_flags(read_recipe(given.recipe, known, fidelity), list_beaten(split_flags(argv)))
    if "start_from" in split_flags([*kept, *argv]):
        flags = drop_flags(flags, list_flags([BackboneArguments]))  # the network is the start's
        group = {name: value for name, value in group.items() if name not in list_flags([BackboneArguments])}
        if not {"learning_rate", "base_learning_rate"} & set(split_flags(argv)):
            argv = [*_lower_rate(group, flags, kept), *argv]
    named = set(split_flags([*flags, *argv]))
    held = _recall_earlier_group(argv) if group and "learning_rate_curve" not in named else {}
    if held:
        # Then the group won over the recipe, and a run goes on with what it had.
        group.pop("synthetic_last_epoch", None)
        return [*kept, *flags, *to_flags(group | held, known, f"fidelity {fidelity}"), *argv]
    if "synthetic_cooldown_epochs" in named:
        group.pop("synthetic_last_epoch", None)
    return [*kept, *to_flags(group, known, f"fidelity {fidelity}"), *flags, *argv]


def _lower_rate(group: Mapping[str, Any], flags: Sequence[str], kept: Sequence[str]) -> list[str]:
    """The rate of a run that goes on from weights, to stand before the user's own: less than from random ones."""
    named = {**{name: [str(value)] for name, value in group.items()}, **split_flags(flags)}
    rate = next((name for name in ("learning_rate", "base_learning_rate") if name in named), None)
    if rate is None and kept:
        return []  # what is kept has it
    value = PretrainingOptions.base_learning_rate if rate is None else float(named[rate][0])
    return [f"--{rate or 'base_learning_rate'}", f"{value * START_RATE_FACTOR:g}"]


def _recall_earlier_group(argv: Sequence[str]) -> dict[str, Any]:
    """What version 0.1 set for the authors' code otherwise than today, of a run of it that is to be resumed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output-dir", "--output_dir", type=Path, default=Path())
    parser.add_argument("--resume", nargs="?", const="true", default="false")
    given = parser.parse_known_args(argv)[0]
    file = given.output_dir / SETTINGS_FILE
    if given.resume.lower() in ("false", "f", "no", "n", "0") or not file.is_file():
        return {}
    training = json.loads(file.read_text()).get("training", {})
    if training.get("fidelity") != AUTHORS_CODE or training.get("learning_rate_curve", PAPER) != PAPER:
        return {}
    window = ("synthetic_warmup_epochs", "synthetic_cooldown_epochs")
    held = {name: training[name] for name in window if training.get(name) is not None}
    return {"learning_rate_curve": PAPER, **held}
