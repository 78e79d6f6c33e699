"""Pretraining by several processes of this machine: torch's launcher, with the run's own line as the last word.

    python -m trainers.several_processes 4 --method synco-v2 --dataset PATH --output-dir runs/first

`synco-hub pretrain --num-processes 4` becomes this. On several machines use `torchrun -m trainers.pretrain`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as launch

# How long a checkpoint may take once the processes were told to stop; before they are killed torch waits 30 seconds.
_SECONDS_TO_SAVE = "120"


def main(argv: Sequence[str] | None = None) -> None:
    """Start the processes and wait for them; ends with the exit code of the one that failed first."""
    number, *flags = sys.argv[1:] if argv is None else argv
    # It would report at length that a process ended, after that process has said why in one line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SECONDS_TO_SAVE)
    try:
        launch(["--standalone", "--nproc-per-node", number, "--module", "trainers.pretrain", *flags])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.exit(failure.exitcode if failure.exitcode > 0 else _killed(rank, -failure.exitcode))
    except SignalException as error:
        sys.exit(128 + int(error.sigval))


def _killed(rank: int, number: int) -> int:
    """Say what a killed process could not, and return the exit code."""
    name = signal.Signals(number).name
    print(  # noqa: T201
        f"error: process {rank} was ended by {name}, often for want of memory; the others were stopped. Continue from "
        "the last complete checkpoint with --resume.",
        file=sys.stderr,
    )
    return 128 + number


if __name__ == "__main__":
    main()
