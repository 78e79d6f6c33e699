import signal
import subprocess
import sys

from synco_hub.data.worker_signals import ignore_signals_in_worker


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
