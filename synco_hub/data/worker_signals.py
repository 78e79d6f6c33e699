"""Signals to a whole process group, as Slurm, `timeout` and Ctrl-C send them: the workers of a loader outlive them."""

from __future__ import annotations

import signal
from collections.abc import Callable

# How long a worker outlives a SIGTERM, so that the step that needs its images can be finished.
WORKER_GRACE_SECONDS = 120


def ignore_signals_in_worker(init: Callable[[int], None] | None, worker_id: int) -> None:
    """In a worker process: leave signals that reached the whole group to the main process.

    A worker that dies at once would take the step, and so the checkpoint, with it. After a SIGTERM it stays for two
    minutes at most, also when the main process does not end it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))
    if init is not None:
        init(worker_id)
