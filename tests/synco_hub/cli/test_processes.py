"""The command becomes the trainer or the server with the same arguments; what is missing is said before."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest
from command_line import invoke

from synco_hub.cli.processes import run_child, run_children, training_command


@pytest.mark.parametrize("command", ["pretrain", "linear-probe", "fine-tune"])
def test_the_process_becomes_the_trainer_with_unchanged_arguments(monkeypatch, command):
    calls = []
    monkeypatch.setattr(os, "execv", lambda path, argv: calls.append((path, argv)))
    flags = ["--model", "a b", "--learning_rates", "1", "--num_mixup=3", "--version", "--help"]
    invoke([command, *flags])
    module = f"trainers.{command.replace('-', '_')}"
    assert calls == [(sys.executable, [sys.executable, "-m", module, *flags])]


@pytest.mark.parametrize("spelling", [["--num-processes", "4"], ["--num-processes=4"], ["--num_processes", "4"]])
def test_several_processes_are_started_by_the_launcher(spelling):
    command = training_command(["--method", "moby", *spelling, "--output-dir", "x"])
    assert command[:4] == [sys.executable, "-m", "trainers.several_processes", "4"]
    assert command[4:] == ["--method", "moby", "--output-dir", "x"]


@pytest.mark.parametrize("number", ["0", "-2", "two", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(number):
    with pytest.raises(ValueError, match=r"--num-processes .*is no number of processes"):
        training_command(["--num-processes", number])


def test_a_flag_without_its_number_is_refused():
    with pytest.raises(ValueError, match="whole number"):
        training_command(["--method", "moby", "--num-processes"])


class ReplacedError(Exception):
    """Stands for the process that would have been replaced."""


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "")  # put back afterwards: the command sets it
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    calls: list[list[str]] = []

    def execv(program: str, arguments: list[str]) -> None:
        calls.append([program, *arguments])
        raise ReplacedError

    monkeypatch.setattr(os, "execv", execv)
    return calls


def test_arguments_reach_the_server(started):
    invoke(["space", "--host", "0.0.0.0", "--port", "0", "--models", "a", "--models", "b/c"])
    given = ["--host", "0.0.0.0", "--port", "0", "--models", "a", "b/c"]
    assert started == [[sys.executable, sys.executable, "-m", "space_app.app", *given]]


def test_defaults_listen_on_loopback_only(started):
    invoke(["space"])
    assert started[0][2:] == ["-m", "space_app.app", "--host", "127.0.0.1", "--port", "7860"]


@pytest.mark.parametrize(("given", "wanted"), [(None, "2"), ("3", "3")])
def test_the_server_gets_two_arenas_of_memory_unless_the_operator_chose(started, monkeypatch, given, wanted):
    if given:
        monkeypatch.setenv("MALLOC_ARENA_MAX", given)
    invoke(["space"])
    assert len(started) == 1
    assert os.environ["MALLOC_ARENA_MAX"] == wanted


def test_a_missing_gradio_and_a_wrong_port_are_said(started, monkeypatch):
    assert invoke(["space", "--port", "70000"]).exit_code == 2
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else real(name))
    result = invoke(["space"])
    assert "pip install 'synco-hub[space]'" in str(result.exception)
    assert started == []


CHILD = """
import signal, sys, time
from pathlib import Path
def save(number, frame):
    time.sleep(1.0)  # longer than `subprocess.run` leaves a child after Ctrl-C
    Path(sys.argv[1]).write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, save), signal.signal(signal.SIGINT, save)
Path(sys.argv[1]).with_name("ready").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_child_hears_of_signals_and_has_the_time_to_save(tmp_path, number):
    parent = (
        "import sys; from synco_hub.cli.processes import run_child; from synco_hub.errors import report_errors\n"
        "with report_errors(): run_child([sys.executable, '-c', *sys.argv[1:]])"
    )
    process = subprocess.Popen([sys.executable, "-c", parent, CHILD, str(tmp_path / "saved")])
    give_up = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < give_up:
        time.sleep(0.05)
    process.send_signal(number)  # to the command alone, as `kill` does
    assert process.wait(60) == 128 + number
    assert (tmp_path / "saved").read_text() == str(int(number))


def test_a_child_that_fails_is_an_error_and_the_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    run_child([sys.executable, "-c", "pass"])
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_child([sys.executable, "-c", "raise SystemExit(3)"])
    assert failed.value.returncode == 3
    assert signal.getsignal(signal.SIGTERM) == before


def test_children_run_at_the_same_time(tmp_path):
    """Each waits for the other's file, so that one after the other they would both give up."""
    program = (
        "import pathlib, sys, time\nmine, other = map(pathlib.Path, sys.argv[1:])\nmine.touch()\n"
        "end = time.monotonic() + 60\nwhile not other.exists():\n"
        "    time.sleep(0.05)\n    if time.monotonic() > end: sys.exit(1)"
    )
    places = [str(tmp_path / name) for name in "ab"]
    run_children([[sys.executable, "-c", program, *order] for order in (places, places[::-1])])
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_children([[sys.executable, "-c", "raise SystemExit(5)"], [sys.executable, "-c", "pass"]])
    assert failed.value.returncode == 5
