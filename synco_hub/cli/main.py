"""`synco-hub`: one command for each thing a user wants; each has an example in its help.

The table names every command; what one needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from synco_hub.cli import options
from synco_hub.errors import DEBUG_VARIABLE, one_line_errors
from synco_hub.flag_parser import FlagParser
from synco_hub.protocols import EVALUATORS, resolve
from synco_hub.settings import DatasetChoice
from synco_hub.version import __version__

ABOUT = "SynCo-v2, MoBY and BYOL vision transformers: pretrain, load, measure, look."
HELP = ("-h", "--help")


@dataclass(frozen=True)
class Command:
    """One line of the table.

    Attributes:
        function: ``module:function``; takes an instance of each of ``options`` and may return an exit code. Without
            options it takes the list of arguments as it is, `--help` included.
        summary: First lines of its help.
        example: A command that works.
        options: Dataclasses whose fields are its flags.
        only: Fields of `DatasetChoice` that it takes, where not all.
        defaults: Where its defaults are not those of the dataclasses.
    """

    function: str
    summary: str
    example: str
    options: tuple[type, ...] = ()
    only: tuple[str, ...] | None = None
    defaults: tuple[tuple[str, Any], ...] = ()


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "synco_hub.cli.demo:demo",
        "Draw fractals, pretrain a small ViT on them, measure it before and after, install it and show its attention.",
        "synco-hub demo --method moby --output-dir demo-moby",
        (options.DemoOptions,),
    ),
    **{
        f"evaluate {name}": Command(
            f"synco_hub.cli.evaluate:{name.replace('-', '_')}",
            row.summary,
            row.example,
            (options.ModelOption, DatasetChoice, row.settings, options.output_option(row)),
            row.data,
            (("dataset", row.dataset), ("output", row.output)),
        )
        for name, row in EVALUATORS.items()
    },
}
GROUPS = {
    "evaluate": "Measure a frozen model by one of the paper's protocols.",
    "data": "The data sets of the paper.",
    "results": "Compare results with each other and with the paper.",
    "card": "Write the card of a checkpoint (`card DIR`), or measure its numbers again (`card verify DIR`).",
}


def run(words: Sequence[str]) -> int:
    """Run a command line and give its exit code."""
    if not words or words[0] in HELP:
        print(overview(COMMANDS, ABOUT, "synco-hub"))
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    name, rest = command_of(list(words))
    if name in GROUPS:
        own = {key: command for key, command in COMMANDS.items() if key.startswith(f"{name} ")}
        print(overview(own, GROUPS[name], f"synco-hub {name}"))
        return 0
    command = COMMANDS[name]
    if not command.options:
        return resolve(command.function)(rest) or 0
    parser = FlagParser(
        command.options,
        only={} if command.only is None else {DatasetChoice: command.only},
        defaults=dict(command.defaults),
        prog=f"synco-hub {name}",
        description=command.summary,
        epilog=f"example: {command.example}",
    )
    return resolve(command.function)(*parser.parse(rest)) or 0
