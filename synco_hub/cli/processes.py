"""Commands that become another process: `pretrain`, `linear-probe` and `fine-tune` the trainers, `space` the server.

Replacing this process makes signals and exit codes those of training or server themselves. Commands that have more to
do after a training start it as a child, and hand on the signals that they get.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import FrameType

from synco_hub.cli.options import SpaceOptions

FLAG = "--num-processes"


def pretrain(words: Sequence[str]) -> None:
    """`synco-hub pretrain`: arguments unchanged, in one process or several."""
    os.execv(sys.executable, training_command(words))


def linear_probe(words: Sequence[str]) -> None:
    """`synco-hub linear-probe`: arguments unchanged."""
    os.execv(sys.executable, [sys.executable, "-m", "trainers.linear_probe", *words])


def fine_tune(words: Sequence[str]) -> None:
    """`synco-hub fine-tune`: arguments unchanged."""
    os.execv(sys.executable, [sys.executable, "-m", "trainers.fine_tune", *words])


def space(options: SpaceOptions) -> None:
    """`synco-hub space`."""
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("gradio is not installed, which the page needs: pip install 'synco-hub[space]'")
    flags = ["--host", options.host, "--port", str(options.port)]
    flags += ["--models", *options.models] if options.models else []
    # With an arena of memory for every thread, a server whose threads come and go grows: 340 MiB in use took 800.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    os.execv(sys.executable, [sys.executable, "-m", "space_app.app", *flags])


def run_child(command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Run a process to its end, as `run_children`."""
    run_children([command], env)


def run_children(commands: Sequence[Sequence[str]], env: Mapping[str, str] | None = None, quiet: bool = False) -> None:
    """Run processes at the same time to their ends, each of which saves what it has when this one is told to stop.

    `subprocess.run` would leave one alone at SIGTERM, and kill it a quarter of a second after Ctrl-C. With ``quiet``
    only what one that fails has said is shown.

    Raises:
        CalledProcessError: If one ends with another exit code than 0; the others have run to their ends then.
    """
    received: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in children:
            process.send_signal(number)

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    with contextlib.ExitStack() as files:
        said = [files.enter_context(tempfile.TemporaryFile()) if quiet else None for _ in commands]
        try:
            for command, file in zip(commands, said, strict=True):
                children.append(subprocess.Popen(list(command), env=env, stdout=file, stderr=file))
                if received:
                    children[-1].send_signal(received[0])
            codes = [child.wait() for child in children]
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if received:
            sys.exit(128 + received[0])
        for code, command, file in zip(codes, commands, said, strict=True):
            if code:
                if file is not None:
                    file.seek(0)
                    print(file.read().decode(errors="replace"), end="", file=sys.stderr)
                raise subprocess.CalledProcessError(code, list(command))


def training_command(words: Sequence[str]) -> list[str]:
    """The command that pretrains: one process, or torch's launcher of several with `--num-processes N`."""
    rest, number = _without_flag(words)
    if number is None:
        return [sys.executable, "-m", "trainers.pretrain", *rest]
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"{FLAG} {number} is no number of processes: give a whole number, usually one a GPU.")
    return [sys.executable, "-m", "trainers.several_processes", number, *rest]


def _without_flag(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without the last `--num-processes`, in any of its spellings, and its value."""
    rest, number = [], None
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == FLAG:
            number = value if equals else next(remaining, "")
        else:
            rest.append(word)
    return rest, number
