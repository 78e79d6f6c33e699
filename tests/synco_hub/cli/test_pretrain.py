import os
import sys

from typer.testing import CliRunner

from synco_hub.cli.main import app


def test_the_process_becomes_the_trainer_with_unchanged_arguments(monkeypatch):
    calls = []
    monkeypatch.setattr(os, "execv", lambda path, argv: calls.append((path, argv)))
    flags = ["--method", "moby", "--num_mixup=3", "--output-dir", "a b", "--help"]
    CliRunner().invoke(app, ["pretrain", *flags])
    assert calls == [(sys.executable, [sys.executable, "-m", "trainers.pretrain", *flags])]
