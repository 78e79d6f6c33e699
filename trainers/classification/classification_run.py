"""The flags of a probing or fine-tuning run, and what tells it from another run in its directory."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from transformers.utils import logging as transformers_logging

from synco_hub.errors import report_errors, suggest
from synco_hub.results import EvaluationResult
from trainers.classification.classification_arguments import LabelledDataArguments
from trainers.runs.flag_parser import FlagParser
from trainers.runs.run_directory import holds_more_than, write_json

logger = logging.getLogger(__name__)

Arguments = TypeVar("Arguments")

SETTINGS_FILE = "classification_settings.json"


def claim_run(directory: Path, settings: dict[str, Any], resume: bool) -> None:
    """Write a run's settings into its directory, unless another run lives there.

    Args:
        directory: `--output-dir`.
        settings: What tells runs apart, as plain data: protocol, model, data, seed, rates.
        resume: Whether the same run may be continued.

    Raises:
        ValueError: If the directory holds another run (naming a difference), this run without `resume`, or
            checkpoints of unknown origin. Settings alone are a run only for `resume`.
    """
    file = directory / SETTINGS_FILE
    settings = json.loads(json.dumps(settings, default=str))
    if file.exists() and (resume or holds_more_than(directory, SETTINGS_FILE)):
        found = json.loads(file.read_text())
        differences = [
            f"{key} was {found.get(key)!r} and is now {settings.get(key)!r}"
            for key in sorted({*found, *settings})
            if found.get(key) != settings.get(key)
        ]
        if differences:
            raise ValueError(
                f"{directory} already holds a different run ({'; '.join(differences[:3])}): choose another "
                "--output-dir, or give the settings it was started with."
            )
        if not resume:
            raise ValueError(
                f"{directory} already holds this run: add --resume to continue it, or choose another --output-dir."
            )
    elif not file.exists() and any(directory.glob("checkpoint-*")):
        raise ValueError(
            f"{directory} holds checkpoints but no {SETTINGS_FILE}, so they are of another program: choose another "
            "--output-dir."
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)


def parse_flags(
    kinds: tuple[type, ...], argv: Sequence[str], program: str, description: str, example: str
) -> tuple[Any, ...]:
    """Turn flags into one object of each dataclass.

    Args:
        kinds: Dataclasses whose fields are the flags.
        argv: The flags.
        program: What the help calls the command.
        description: The entry point's docstring; its first line is shown.
        example: Shown below the flags.

    Raises:
        ValueError: If a flag is unknown, naming the nearest, or a value is impossible.
    """
    parser = FlagParser(
        cast(Any, kinds),
        prog=program,
        description=description.split("\n", 1)[0],
        epilog=example,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    *parts, unknown = parser.parse_args_into_dataclasses(
        list(argv), return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings]
        raise ValueError(f"{unknown[0]} is not a flag of this command.{suggest(unknown[0].split('=')[0], flags)}")
    return tuple(parts)


def run_command(
    measure: Callable[[LabelledDataArguments, Arguments], EvaluationResult],
    arguments_class: type[Arguments],
    argv: Sequence[str] | None,
    program: str,
    description: str,
    example: str,
) -> None:
    """An entry point: reads the flags, trains, and prints the metrics; one clear line and exit code 1 on failure.

    Args:
        measure: Trains and measures.
        arguments_class: Its settings; their flags stand beside those of the data.
        argv: The flags; None takes the command line.
        program: What the help calls the command.
        description: The entry point's docstring; its first line is shown.
        example: Shown below the flags.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with report_errors():
        data_arguments, arguments = parse_flags(
            (LabelledDataArguments, arguments_class),
            sys.argv[1:] if argv is None else argv,
            program,
            description,
            example,
        )
        result = measure(data_arguments, arguments)
        for metric, value in result.metrics.items():
            logger.warning("  %-32s %6.2f %%", metric, value)
