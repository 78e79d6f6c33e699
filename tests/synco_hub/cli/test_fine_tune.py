"""`synco_hub.cli.fine_tune` by the command line, as a user calls it."""

import os
import sys

from typer.testing import CliRunner

from synco_hub.cli.main import app


def test_the_process_becomes_the_trainer_with_unchanged_arguments(monkeypatch):
    calls = []
    monkeypatch.setattr(os, "execv", lambda path, argv: calls.append((path, argv)))
    flags = ["--model", "a b", "--learning_rates", "1", "--help"]
    CliRunner().invoke(app, ["fine-tune", *flags])
    assert calls == [(sys.executable, [sys.executable, "-m", "trainers.fine_tune", *flags])]
