"""The page: choose a picture and up to three checkpoints, and see side by side what they look at.

Run it by `synco-hub space`, or by `python app.py` as a Space. No mathematics here: what is drawn comes from
`synco_hub.visualization`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from space_app.about import ABOUT, UNTRAINED_NOTICE
from space_app.example_images import draw_examples
from space_app.looks import Looks
from space_app.model_cache import ModelCache
from space_app.panels import Panel, message_html, panels_html
from space_app.uploaded_image import LARGEST_UPLOAD_BYTES, image_input
from space_app.views import ATTENTION_KINDS, AttentionControls, attention_panel
from space_app.visible_errors import visible_errors

MOST_MODELS = 3
_STYLE = Path(__file__).with_name("style.css")
# Uploads and results are deleted when they are this old, looked for this often, in seconds.
_KEPT_SECONDS, _SWEEP_SECONDS = 600, 60


def build_app(models: ModelCache, folder: Path) -> gr.Blocks:
    """Lay out the page.

    Args:
        models: The checkpoints on offer.
        folder: The app's own temporary folder, the only one it writes to.

    Returns:
        The page, with its queue; see :func:`launch`.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")  # gradio reads it when components are made
    examples_folder = folder / "examples"
    examples_folder.mkdir(exist_ok=True)
    examples = draw_examples(examples_folder)
    looks = Looks(models)

    @visible_errors
    def show_attention(
        path: str | None, names: list[str], detail: int, kind: str, head: int, mass: float, strength: float
    ) -> Iterator[str]:
        controls = AttentionControls(kind, int(head), mass, strength)
        panels: list[Panel] = []
        for name in _checked(names):
            panels.append(attention_panel(looks, path, name, detail, controls))
            yield panels_html(panels)

    with gr.Blocks(title="synco-hub", analytics_enabled=False, delete_cache=(_SWEEP_SECONDS, _KEPT_SECONDS)) as page:
        gr.Markdown("# What does the network look at?")
        if not models.trained:
            gr.Markdown(UNTRAINED_NOTICE, elem_classes="notice")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                image = image_input(label="Picture", sources=["upload", "webcam", "clipboard"], height=300)
                gr.Examples([[str(path)] for path in examples.values()], image, label="Examples")
            with gr.Column(scale=3, min_width=300):
                names = gr.Dropdown(
                    models.offered,
                    value=models.offered[:MOST_MODELS],
                    multiselect=True,
                    max_choices=MOST_MODELS,
                    allow_custom_value=True,
                    label="Models (up to three; or type any public Hub id)",
                )
                detail = gr.Radio([1, 2, 3], value=1, label="Detail (times the model's own input size)")
                with gr.Tab("Attention"):
                    with gr.Row():
                        kind = gr.Dropdown(list(ATTENTION_KINDS), value=ATTENTION_KINDS[0], label="Map")
                        head = gr.Slider(1, 16, value=1, step=1, label="Head")
                        mass = gr.Slider(0.05, 1, value=1, step=0.05, label="Share of attention shown")
                        strength = gr.Slider(0, 1, value=0.6, step=0.05, label="Overlay strength")
                    board = gr.HTML(message_html("Choose a picture to begin."), elem_id="board")
                with gr.Tab("About"):
                    gr.Markdown(ABOUT)
        controls: list[Any] = [image, names, detail, kind, head, mass, strength]
        gr.on(
            [control.change for control in controls],
            show_attention,
            controls,
            board,
            trigger_mode="always_last",
            show_progress="minimal",
            api_name="attention_html",
        )
    page.queue(max_size=64, default_concurrency_limit=2)
    return page


def launch(page: gr.Blocks, host: str = "127.0.0.1", port: int = 7860, **settings: Any) -> tuple[Any, str, str]:
    """Serve the page.

    Args:
        page: What :func:`build_app` gave.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        **settings: More arguments of gradio's launch.

    Returns:
        The server's application, its local address, and its public one if there is one.
    """
    return page.launch(
        server_name=host,
        server_port=port or None,
        max_file_size=LARGEST_UPLOAD_BYTES,
        show_error=False,
        ssr_mode=False,
        share=False,
        footer_links=["api"],
        theme=gr.themes.Soft(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=_STYLE.read_text(),
        **settings,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until stopped.

    Args:
        arguments: Command line; None takes the process's own. Without `--models` the variable SYNCO_SPACE_MODELS
            (names separated by commas) counts, then what is installed.
    """
    parser = argparse.ArgumentParser(prog="synco-hub space", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    parser.add_argument("--models", nargs="*", default=None)
    chosen = parser.parse_args(arguments)
    offered = chosen.models or [name for name in os.environ.get("SYNCO_SPACE_MODELS", "").split(",") if name]
    with tempfile.TemporaryDirectory(prefix="synco-space-") as folder:
        launch(build_app(ModelCache(offered), Path(folder)), chosen.host, chosen.port)


def _checked(names: list[str]) -> list[str]:
    if not names:
        raise ValueError("No model chosen: choose one to three.")
    return names[:MOST_MODELS]


if __name__ == "__main__":
    main()
