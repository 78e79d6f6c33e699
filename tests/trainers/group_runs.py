"""Runs training commands as leaders of process groups, and sends each group a signal once it steps.

    python group_runs.py PLAN.json

The plan is a list of runs: `module` of the command, `argv`, `log`, `signal`, and `until`, the text of the log after
which the signal comes. Prints the exit codes.
"""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import datasets  # noqa: F401 - streams need it, and a fork of what is imported costs nothing

from trainers.fine_tune import main as fine_tune  # noqa: F401
from trainers.linear_probe import main as linear_probe  # noqa: F401
from trainers.pretrain import main as pretrain  # noqa: F401


def lead(run: dict[str, Any]) -> None:
    """What the forked process does; never returns."""
    code = 1
    try:
        os.setsid()
        descriptor = os.open(run["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        importlib.import_module(run["module"]).main(run["argv"])
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def signalled(run: dict[str, Any]) -> int:
    """The exit code of one run (negative: the signal that ended it)."""
    process = os.fork()
    if process == 0:
        lead(run)
    log, sent, give_up = Path(run["log"]), False, time.monotonic() + 200
    while time.monotonic() < give_up:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if not sent and log.exists() and run["until"] in log.read_text():
            os.killpg(process, signal.Signals[run["signal"]])
            sent = True
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return -signal.SIGKILL


if __name__ == "__main__":
    print(json.dumps([signalled(run) for run in json.loads(Path(sys.argv[1]).read_text())]))
