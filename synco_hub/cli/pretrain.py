"""`synco-hub pretrain`: becomes the training process, or the launcher of several, arguments unchanged."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

FLAG = "--num-processes"


def pretrain(context: typer.Context) -> None:
    """Pretrain SynCo-v2, MoBY or BYOL on your images (`synco-hub pretrain --help` lists every flag).

    Example: synco-hub pretrain --method synco-v2 --backbone deit-s --dataset ./photographs --output-dir runs/first
    """
    # Replacing this process makes signals and exit codes those of the training itself.
    os.execv(sys.executable, command_line(context.args))


def command_line(arguments: Sequence[str]) -> list[str]:
    """The command that trains: one process, or torch's launcher of several with `--num-processes N`.

    Args:
        arguments: Flags of `trainers.pretrain`, and `--num-processes`, which is taken out.

    Raises:
        ValueError: If the number of processes is not a whole number of at least 1.
    """
    rest, number = _without_flag(list(arguments))
    if number is None:
        return [sys.executable, "-m", "trainers.pretrain", *rest]
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"{FLAG} {number} is no number of processes: give a whole number, usually one a GPU.")
    return [sys.executable, "-m", "trainers.several_processes", number, *rest]


def _without_flag(arguments: list[str]) -> tuple[list[str], str | None]:
    """The arguments without the last `--num-processes`, in any of its spellings, and its value."""
    rest, number = [], None
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == FLAG:
            number = value if equals else next(remaining, "")
        else:
            rest.append(argument)
    return rest, number
