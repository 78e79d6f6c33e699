import os
import sys

import pytest
from typer.testing import CliRunner

from synco_hub.cli.main import app
from synco_hub.cli.pretrain import command_line


def test_the_process_becomes_the_trainer_with_unchanged_arguments(monkeypatch):
    calls = []
    monkeypatch.setattr(os, "execv", lambda path, argv: calls.append((path, argv)))
    flags = ["--method", "moby", "--num_mixup=3", "--output-dir", "a b", "--help"]
    CliRunner().invoke(app, ["pretrain", *flags])
    assert calls == [(sys.executable, [sys.executable, "-m", "trainers.pretrain", *flags])]


@pytest.mark.parametrize("spelling", [["--num-processes", "4"], ["--num-processes=4"], ["--num_processes", "4"]])
def test_several_processes_are_started_by_the_launcher(spelling):
    command = command_line(["--method", "moby", *spelling, "--output-dir", "x"])
    assert command[:4] == [sys.executable, "-m", "trainers.several_processes", "4"]
    assert command[4:] == ["--method", "moby", "--output-dir", "x"]


@pytest.mark.parametrize("number", ["0", "-2", "two", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(number):
    with pytest.raises(ValueError, match=r"--num-processes .*is no number of processes"):
        command_line(["--num-processes", number])


def test_a_flag_without_its_number_is_refused():
    with pytest.raises(ValueError, match="whole number"):
        command_line(["--method", "moby", "--num-processes"])
