import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from synco_hub.hub.one_at_a_time import one_at_a_time

_HOLDER = """
import sys, time
from synco_hub.hub.one_at_a_time import one_at_a_time
with one_at_a_time("a"):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def test_a_second_thread_waits_for_the_first_and_another_work_does_not(caplog):
    steps, inside, leave = [], threading.Event(), threading.Event()

    def first():
        with one_at_a_time("a"):
            inside.set()
            leave.wait(30)
            steps.append("first ends")

    def second():
        with one_at_a_time("a"):
            steps.append("second begins")

    threads = [threading.Thread(target=work) for work in (first, second)]
    threads[0].start()
    assert inside.wait(30)
    with one_at_a_time("b"):
        steps.append("another")
    with caplog.at_level(logging.WARNING):
        threads[1].start()
        while not caplog.records:
            threads[1].join(0.01)
    assert "another process is at a: waiting" in caplog.text
    leave.set()
    for thread in threads:
        thread.join(30)
    assert steps == ["another", "first ends", "second begins"]


def test_an_error_inside_lets_go():
    with pytest.raises(KeyError), one_at_a_time("a"):
        raise KeyError("inside")
    with one_at_a_time("a"):
        pass


def test_nobody_waits_for_a_process_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", _HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "holds\n"
        entered = threading.Event()

        def wait():
            with one_at_a_time("a"):
                entered.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.3)
        os.kill(holder.pid, signal.SIGKILL)
        waiting.join(30)
        assert entered.is_set()


def test_a_home_that_cannot_be_written_is_an_error_of_the_system(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"), one_at_a_time("a"):
        pass
