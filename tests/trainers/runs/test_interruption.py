import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from trainers.runs.interruption import InterruptionCallback, ignore_signals_in_worker


def control() -> SimpleNamespace:
    return SimpleNamespace(should_save=False, should_training_stop=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_saves_and_stops_after_the_step_and_the_second_acts_as_before(number):
    heard = []
    previous = signal.signal(number, lambda *_: heard.append("caller"))
    try:
        callback, state = InterruptionCallback(), SimpleNamespace(global_step=3, max_steps=9)
        callback.on_train_begin(None, state, control())
        assert callback.on_step_end(None, state, control()).should_save is False
        os.kill(os.getpid(), number)
        assert heard == []
        told = callback.on_step_end(None, state, control())
        assert (told.should_save, told.should_training_stop) == (True, True)
        assert callback.received == number
        os.kill(os.getpid(), number)
        assert heard == ["caller"]
        callback.on_train_end(None, state, control())
        os.kill(os.getpid(), number)
        assert heard == ["caller", "caller"]
    finally:
        signal.signal(number, previous)


def test_a_run_at_its_end_is_finished_not_interrupted():
    callback, state = InterruptionCallback(), SimpleNamespace(global_step=9, max_steps=9)
    callback.received = signal.SIGTERM
    assert callback.on_step_end(None, state, control()).should_training_stop is False


def test_a_worker_survives_the_signals_of_the_group_but_not_for_ever():
    script = (
        "import os, signal, time\n"
        "from trainers.runs import interruption\n"
        "interruption.WORKER_GRACE_SECONDS = 1\n"
        "interruption.ignore_signals_in_worker(lambda number: print('ready', number), 5)\n"
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
