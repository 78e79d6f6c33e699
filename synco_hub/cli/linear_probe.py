"""`synco-hub linear-probe`: becomes the probing process, arguments unchanged."""

from __future__ import annotations

import os
import sys

import typer


def linear_probe(context: typer.Context) -> None:
    """Train a linear classifier on frozen features (paper 7.5; `synco-hub linear-probe --help` lists every flag).

    Example: synco-hub linear-probe --model synco-v2-deit-s --dataset ./photographs --output-dir runs/probe
    """
    # Replacing this process makes signals and exit codes those of the training itself.
    os.execv(sys.executable, [sys.executable, "-m", "trainers.linear_probe", *context.args])
