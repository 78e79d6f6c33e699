"""Signals to a whole process group, as Slurm, `timeout` and Ctrl-C send them: the workers of a loader outlive them."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkContext, ForkProcess
from typing import Any

# How long a worker outlives a SIGTERM, so that the step that needs its images can be finished.
WORKER_GRACE_SECONDS = 120
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _ShieldedProcess(ForkProcess):
    """Born with signals held back: torch's own handler ends a worker before `ignore_signals_in_worker` has run."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _ShieldedContext(ForkContext):
    Process = _ShieldedProcess


def worker_settings(
    num_workers: int, init: Callable[[int], None] | None = None, context: str | None = None
) -> dict[str, Any]:
    """Arguments of a `DataLoader` whose workers leave signals to the main process, from their first moment on.

    Args:
        num_workers: Processes.
        init: Called in each of them with its number.
        context: How they start; None takes the default of `multiprocessing`.
    """
    forks = num_workers > 0 and (context or multiprocessing.get_start_method()) == "fork"
    return {
        "num_workers": num_workers,
        "worker_init_fn": partial(ignore_signals_in_worker, init),
        "multiprocessing_context": _ShieldedContext() if forks else context,
    }


def ignore_signals_in_worker(init: Callable[[int], None] | None, worker_id: int) -> None:
    """In a worker process: leave signals that reached the whole group to the main process.

    A worker that dies at once would take the step, and so the checkpoint, with it. After a SIGTERM it stays for two
    minutes at most, also when the main process does not end it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if init is not None:
        init(worker_id)
