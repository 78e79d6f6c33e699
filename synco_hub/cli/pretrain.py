"""`synco-hub pretrain`: becomes the training process, arguments unchanged."""

from __future__ import annotations

import os
import sys

import typer


def pretrain(context: typer.Context) -> None:
    """Pretrain SynCo-v2, MoBY or BYOL on your images (`synco-hub pretrain --help` lists every flag).

    Example: synco-hub pretrain --method synco-v2 --backbone deit-s --dataset ./photographs --output-dir runs/first
    """
    # Replacing this process makes signals and exit codes those of the training itself.
    os.execv(sys.executable, [sys.executable, "-m", "trainers.pretrain", *context.args])
