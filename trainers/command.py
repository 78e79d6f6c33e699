"""What the training commands have in common: a help that needs no torch, flags into dataclasses, and the run."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from synco_hub.errors import report_errors, suggest
from synco_hub.flag_parser import FlagParser
from trainers.settings import SELDOM_GIVEN

logger = logging.getLogger(__name__)

_HELP_ALL = "--help-all"
# What other programs call some flags, where the spelling alone would lead to another one.
_CALLED_ELSEWHERE = {
    "arch": "backbone",
    "batch_size": "per_device_train_batch_size",
    "data": "dataset",
    "data_path": "dataset",
    "epochs": "num_train_epochs",
    "global_crops_scale": "crop_scale",
    "local_crops_number": "local_crops",
    "local_crops_scale": "local_scale",
    "log_interval": "logging_steps",
    "lr": "learning_rate",
    "num_workers": "dataloader_num_workers",
    "output": "output_dir",
    "steps": "max_steps",
    "wd": "weight_decay",
    "workers": "dataloader_num_workers",
}
# Of two flags that say the same thing the second wins; giving the first anew shall not be in vain.
_WINS_OVER = {
    "num_train_epochs": "max_steps",
    "base_learning_rate": "learning_rate",
    "synthetic_cooldown_epochs": "synthetic_last_epoch",
}
# Flags that say how a run is to go on, with how long and where it is: not which one it is.
_HOW = {
    "dataloader_num_workers",
    "disable_tqdm",
    "logging_steps",
    "report_to",
    "save_steps",
    "save_strategy",
    "use_cpu",
}
_NO_RUN = {"output_dir", "resume", "max_steps", "num_train_epochs", *_HOW}
# A continued run names these itself.
_NOT_KEPT = ("resume", "output_dir", "recipe")


@dataclass(frozen=True)
class Command:
    """One entry point.

    Attributes:
        program: How users call it.
        about: The entry point's docstring; its first line is shown.
        example: Shown below the flags.
        kinds: Dataclasses whose fields are the flags that `--help` shows; they import no torch.
        all_kinds: ``module:NAME`` of those with the flags of `transformers.TrainingArguments` among them.
        run: ``module:function`` that takes the flags.
        first: Names of the flags that most calls need, which the help shows before all others.
    """

    program: str
    about: str
    example: str
    kinds: tuple[type, ...]
    all_kinds: str
    run: str
    first: tuple[str, ...] = ()

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Show the help, or run; one clear line and exit code 1 on failure."""
        words = list(sys.argv[1:] if argv is None else argv)
        with report_errors():
            if _HELP_ALL in words:
                self._parser(_load(self.all_kinds), "", {}).print_help()
            elif "--help" in words or "-h" in words:
                further = f"{_HELP_ALL} also lists the flags of transformers.TrainingArguments."
                self._parser(self.kinds, further, {kind: _list_common(kind) for kind in self.kinds}).print_help()
            else:
                _quieten_libraries()
                _load(self.run)(words)

    def run_as_program(self) -> None:
        """As `main`, at whose end the process ends.

        One of several processes leaves without the interpreter's own ending: in about one run of seven a thread of
        gloo aborted it there ("terminate called without an active exception", torch 2.15), all work done and written.
        """
        code: str | int | None = 0
        try:
            self.main()
        except SystemExit as ended:
            code = ended.code
        if _is_one_of_several_processes() and isinstance(code, int):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)

    def _parser(self, kinds: Sequence[type], further: str, only: Mapping[type, Sequence[str]]) -> FlagParser:
        paragraphs = [self.about.split("\n", 1)[0], further]
        return FlagParser(
            kinds,
            only=only,
            first=self.first,
            prog=self.program,
            usage="%(prog)s --output-dir FOLDER [--flag value ...]",
            description="\n\n".join(filter(None, paragraphs)),
            epilog=f"example: {self.example}",
        )


def _quieten_libraries() -> None:
    """Leave the words to the run's own warnings and its progress bar."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    transformers_logging.set_verbosity_error()
    # The training bar is the Trainer's own; these would be bars for single files that take a blink.
    transformers_logging.disable_progress_bar()
    # accelerate's own call, until it uses the new name of the setting.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    # The oldest transformers knows the old name alone, the newest takes both.
    warnings.filterwarnings("ignore", message="`gradient_checkpointing` is deprecated", category=FutureWarning)


def _is_one_of_several_processes() -> bool:
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return False
    return bool(distributed.get_world_size() > 1)


def _load(path: str) -> Any:
    """What lies at ``module:name``; only here a command imports torch."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _list_common(kind: type) -> list[str]:
    """The flags of a dataclass that the short help shows."""
    return [field.name for field in dataclasses.fields(kind) if field.name not in SELDOM_GIVEN]


def list_flags(kinds: Sequence[type]) -> list[str]:
    """Names of the flags of dataclasses, with underscores."""
    return [field.name for kind in kinds for field in dataclasses.fields(kind) if field.init]


def parse_flags(kinds: Sequence[type], words: Sequence[str], given: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Turn flags into one object of each dataclass; ``given`` are those that the user typed, where not all."""
    *parts, unknown = FlagParser(kinds, usage="", add_help=False).parse(words, further=True)
    if unknown:
        raise ValueError(f"{unknown[0]} is not a flag of this command.{_suggest_flag(unknown[0], list_flags(kinds))}")
    typed = split_flags(words if given is None else given)
    for part in parts:
        if hasattr(part, "refuse_given"):
            part.refuse_given({name: getattr(part, name) for name in typed if hasattr(part, name)})
            part.given_flags = tuple(drop_flags(words, _NOT_KEPT))
    return tuple(parts)


def require_output_dir(words: Sequence[str]) -> None:
    """Refuses a run that would be written into the current folder, under a name that nobody gave.

    Raises:
        ValueError: If no flag names the folder.
    """
    if "output_dir" not in split_flags(words):
        raise ValueError("--output-dir is missing: name the folder that the run is written into, such as runs/own.")


def _suggest_flag(word: str, known: Sequence[str]) -> str:
    """` Did you mean …?`: the flag that other programs call so, or those that are spelled alike."""
    elsewhere = _CALLED_ELSEWHERE.get(_name_of(word))
    if elsewhere is not None and elsewhere in known:
        return f" Did you mean '--{elsewhere.replace('_', '-')}'?"
    return suggest(word.split("=")[0], [f"--{name.replace('_', '-')}" for name in known])


def _name_of(word: str) -> str:
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


def split_flags(words: Sequence[str]) -> dict[str, list[str]]:
    """Which flags a command line names, with underscores, and the words of their values; the last of each counts."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = _name_of(word)
            found[name] = [word.partition("=")[2]] if "=" in word else []
        elif name:
            found[name].append(word)
    return found


def drop_flags(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """A command line without some flags and their values."""
    kept, keep = [], True
    for word in words:
        if word.startswith("--"):
            keep = _name_of(word) not in names
        if keep:
            kept.append(word)
    return kept


def _find_resumed(given: Mapping[str, list[str]]) -> str | None:
    """The folder whose run a command line is to resume."""
    directory, resume = given.get("output_dir", []), given.get("resume", ["false"])
    if not directory or (resume and resume[0].lower() not in ("true", "t", "yes", "y", "1")):
        return None
    return directory[0]


def list_beaten(given: Collection[str]) -> list[str]:
    """Flags that would win over one that is given, where they are not: a recipe's or an earlier one shall not."""
    return [beaten for name, beaten in _WINS_OVER.items() if name in given and beaten not in given]


def recall_flags(words: Sequence[str], settings_file: str) -> list[str]:
    """The flags that a run to be resumed was started with, to be put before those that are given now.

    Who names the data set describes the run anew, and what is left out then has its default.
    """
    given = split_flags(words)
    if "dataset" in given:
        return []
    directory = _find_resumed(given)
    if directory is None:
        return []
    file = Path(directory).expanduser() / settings_file
    if not file.is_file():
        if set(given) <= _NO_RUN:
            raise ValueError(
                f"--resume: there is no run in {directory} ({settings_file} is not there): check --output-dir, or "
                "describe the run that is to begin, at least by --dataset."
            )
        return []
    kept = json.loads(file.read_text()).get("flags")
    if kept is None:
        if set(given) <= {"output_dir", "resume"}:
            logger.warning("%s is of an earlier version, which did not keep the flags: give them again.", file)
        return []
    return drop_flags(kept, list_beaten(given))


def tell_left_out(words: Sequence[str], held: Sequence[str], settings_file: str) -> None:
    """Say what a run was started with and is not held now, where a data set named anew left it out."""
    given = split_flags(words)
    directory = _find_resumed(given)
    file = None if directory is None else Path(directory).expanduser() / settings_file
    if "dataset" not in given or file is None or not file.is_file():
        return
    known = {*split_flags(held), *list_beaten(given), *_HOW}
    kept = split_flags(json.loads(file.read_text()).get("flags") or [])
    left_out = [" ".join((f"--{name.replace('_', '-')}", *kept[name])) for name in kept if name not in known]
    if left_out:
        logger.warning(
            "--dataset describes the run anew, and it was also started with %s: give that too to go on with it.",
            " ".join(left_out),
        )


def parse_resumable(kinds: Sequence[type], words: Sequence[str], settings_file: str) -> tuple[Any, ...]:
    """As `parse_flags`; what a resumed run was started with is read from its folder."""
    held = [*recall_flags(words, settings_file), *words]
    tell_left_out(words, held, settings_file)
    return parse_flags(kinds, held, words)
