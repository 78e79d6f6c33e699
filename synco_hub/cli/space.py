"""`synco-hub space`: becomes the server of the Space."""

from __future__ import annotations

import importlib.util
import os
import sys

import typer


def space(
    host: str = typer.Option("127.0.0.1", help="Address to listen on; 0.0.0.0 lets other computers in."),
    port: int = typer.Option(7860, min=0, max=65535, help="Port to listen on; 0 takes a free one."),
    models: list[str] = typer.Option(
        [], "--models", help="Model on offer: short name, checkpoint directory or Hub id; repeat for more."
    ),
) -> None:
    """Open a page that shows what up to three models look at in your pictures.

    Without --models every installed checkpoint is on offer; where none is, an untrained network that says so.

    Example: synco-hub space --port 7860 --models synco-v2-vit-nano --models moby-vit-nano
    """
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("gradio is not installed, which the page needs: pip install 'synco-hub[space]'")
    chosen = ["--models", *models] if models else []
    # With an arena of memory for every thread, a server whose threads come and go grows: 340 MiB in use took 800.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    # Replacing this process makes signals and exit codes those of the server itself.
    os.execv(sys.executable, [sys.executable, "-m", "space_app.app", "--host", host, "--port", str(port), *chosen])
