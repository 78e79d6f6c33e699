"""The command becomes the server with the same arguments; what is missing is said before.

By the command line, as a user calls `synco_hub.cli.space`.
"""

import importlib.util
import os
import sys

import pytest
from typer.testing import CliRunner

from synco_hub.cli.main import app


class ReplacedError(Exception):
    """Stands for the process that would have been replaced."""


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    calls: list[list[str]] = []
    monkeypatch.setenv("MALLOC_ARENA_MAX", "")  # put back afterwards: the command sets it
    monkeypatch.delenv("MALLOC_ARENA_MAX")

    def execv(program: str, arguments: list[str]) -> None:
        calls.append([program, *arguments])
        raise ReplacedError

    monkeypatch.setattr(os, "execv", execv)
    return calls


def test_arguments_reach_the_server(started):
    CliRunner().invoke(app, ["space", "--host", "0.0.0.0", "--port", "0", "--models", "a", "--models", "b/c"])
    given = ["--host", "0.0.0.0", "--port", "0", "--models", "a", "b/c"]
    assert started == [[sys.executable, sys.executable, "-m", "space_app.app", *given]]


def test_defaults_listen_on_loopback_only(started):
    CliRunner().invoke(app, ["space"])
    assert started[0][2:] == ["-m", "space_app.app", "--host", "127.0.0.1", "--port", "7860"]


@pytest.mark.parametrize(("given", "wanted"), [(None, "2"), ("3", "3")])
def test_the_server_gets_two_arenas_of_memory_unless_the_operator_chose(started, monkeypatch, given, wanted):
    if given:
        monkeypatch.setenv("MALLOC_ARENA_MAX", given)
    CliRunner().invoke(app, ["space"])
    assert len(started) == 1
    assert os.environ["MALLOC_ARENA_MAX"] == wanted


def test_a_missing_gradio_and_a_wrong_port_are_said(started, monkeypatch):
    assert CliRunner().invoke(app, ["space", "--port", "70000"]).exit_code == 2
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else real(name))
    result = CliRunner().invoke(app, ["space"])
    assert "pip install 'synco-hub[space]'" in str(result.exception)
    assert started == []
