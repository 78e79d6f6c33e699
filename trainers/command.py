"""What the training commands have in common: a help that needs no torch, flags into dataclasses, and the run."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers.utils import logging as transformers_logging

from synco_hub.errors import report_errors, suggest
from synco_hub.flag_parser import FlagParser

_HELP_ALL = "--help-all"


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
    """

    program: str
    about: str
    example: str
    kinds: tuple[type, ...]
    all_kinds: str
    run: str

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Show the help, or run; one clear line and exit code 1 on failure."""
        words = list(sys.argv[1:] if argv is None else argv)
        with report_errors():
            if _HELP_ALL in words:
                self._parser(_load(self.all_kinds), "").print_help()
            elif "--help" in words or "-h" in words:
                further = f"{_HELP_ALL} also lists the flags of transformers.TrainingArguments."
                self._parser(self.kinds, further).print_help()
            else:
                _quieten_libraries()
                _load(self.run)(words)

    def _parser(self, kinds: Sequence[type], further: str) -> FlagParser:
        paragraphs = [self.about.split("\n", 1)[0], further]
        return FlagParser(
            kinds,
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


def _load(path: str) -> Any:
    """What lies at ``module:name``; only here a command imports torch."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def list_flags(kinds: Sequence[type]) -> list[str]:
    """Names of the flags of dataclasses, with underscores."""
    return [field.name for kind in kinds for field in dataclasses.fields(kind) if field.init]


def parse_flags(kinds: Sequence[type], words: Sequence[str]) -> tuple[Any, ...]:
    """Turn flags into one object of each dataclass."""
    *parts, unknown = FlagParser(kinds, usage="", add_help=False).parse(words, further=True)
    if unknown:
        flags = [f"--{name.replace('_', '-')}" for name in list_flags(kinds)]
        raise ValueError(f"{unknown[0]} is not a flag of this command.{suggest(unknown[0].split('=')[0], flags)}")
    return tuple(parts)
