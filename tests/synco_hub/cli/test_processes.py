"""The command becomes the trainer or the server with the same arguments; what is missing is said before."""

import importlib.util
import os
import sys

import pytest
from command_line import invoke

from synco_hub.cli.processes import training_command


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
