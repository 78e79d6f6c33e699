import os
import signal
from types import SimpleNamespace

import pytest

from trainers.runs import interruption
from trainers.runs.interruption import InterruptionCallback


def control() -> SimpleNamespace:
    return SimpleNamespace(should_save=False, should_training_stop=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_saves_and_stops_after_the_step_and_a_later_one_acts_as_before(number, monkeypatch):
    heard, clock = [], SimpleNamespace(monotonic=lambda: clock.now, now=50.0)
    monkeypatch.setattr(interruption, "time", clock)
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
        # `timeout` sends its signal to the process, and to the group that the process is in.
        clock.now += 0.5
        os.kill(os.getpid(), number)
        assert heard == []
        clock.now += interruption.SAME_REQUEST_SECONDS
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
