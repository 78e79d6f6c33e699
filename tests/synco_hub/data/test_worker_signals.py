import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from synco_hub.data.worker_signals import ignore_signals_in_worker, worker_settings


def test_a_worker_survives_the_signals_of_the_group_but_not_for_ever():
    script = (
        "import os, signal, time\n"
        "from synco_hub.data import worker_signals\n"
        "worker_signals.WORKER_GRACE_SECONDS = 1\n"
        "worker_signals.ignore_signals_in_worker(lambda number: print('ready', number), 5)\n"
        "os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('alive', flush=True); time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "ready 5\nalive\n"
    assert ended.returncode == -signal.SIGALRM


def test_the_initialiser_may_be_absent():
    kept = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        ignore_signals_in_worker(None, 0)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), kept, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_still_starting_hears_nothing_of_the_group(number, monkeypatch):
    """torch's worker installs a handler that ends it, and only later calls the initialiser."""
    main_process, previous = os.getpid(), signal.signal(number, lambda *_: None)

    def signal_myself(threads: int) -> None:
        if os.getpid() != main_process:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(torch, "set_num_threads", signal_myself)
    try:
        batches = list(DataLoader(range(6), batch_size=2, **worker_settings(2)))
    finally:
        signal.signal(number, previous)
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_loader_without_workers_takes_the_settings_too():
    assert len(DataLoader(range(6), batch_size=2, **worker_settings(0))) == 3


def test_workers_start_as_asked():
    assert worker_settings(2, context="spawn")["multiprocessing_context"] == "spawn"
    assert worker_settings(0, context="spawn")["multiprocessing_context"] == "spawn"  # torch says what is wrong
    assert worker_settings(2, context="fork")["multiprocessing_context"].get_start_method() == "fork"
    assert worker_settings(2, context="fork")["multiprocessing_context"].Process is not multiprocessing.Process
