"""`synco-hub fine-tune`: becomes the fine-tuning process, arguments unchanged."""

from __future__ import annotations

import os
import sys

import typer


def fine_tune(context: typer.Context) -> None:
    """Adapt all weights to labelled images (paper 7.6; `synco-hub fine-tune --help` lists every flag).

    Example: synco-hub fine-tune --model synco-v2-deit-s --dataset ./photographs --output-dir runs/fine-tuned
    """
    # Replacing this process makes signals and exit codes those of the training itself.
    os.execv(sys.executable, [sys.executable, "-m", "trainers.fine_tune", *context.args])
