"""The page: choose a picture and up to three checkpoints, and see side by side what they look at.

Run it by `synco-hub space`, or by `python app.py` as a Space. No mathematics here: what is drawn comes from
`synco_hub.visualization`.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from space_app.board import (
    ABOUT,
    ATTENTION,
    FEATURES,
    GRADIENTS,
    MOST_MODELS,
    NO_PICTURE,
    SEGMENTS,
    TOKENS,
    Controls,
    check_names,
    describe_similarity,
    draw_panels,
    render_board,
)
from space_app.model_cache import MOST_TYPED_WAITING, ModelCache
from space_app.panels import ABOUT_TEXT, INTRODUCTION, SHIPPED_NOTICE, render_examples, render_message
from space_app.uploads import LARGEST_UPLOAD_BYTES, draw_examples, image_input, save_answer, start_deleting
from space_app.views import ATTENTION_KINDS, GRADIENT_KINDS, MOST_CLASSES, TOKEN_KINDS, ResultCache
from synco_hub.errors import report_errors
from synco_hub.hub.model_names import TIMM_PREFIX, check_model_name, find_backbone_name
from synco_hub.hub.short_names import resolve

logger = logging.getLogger(__name__)

_STYLE = Path(__file__).with_name("style.css")
# Uploads and answers are deleted when they are this old, looked for this often, in seconds.
_KEPT_SECONDS, _DELETE_EVERY_SECONDS = 600, 60
_LONGEST_QUEUE = 64
# One pool for the page and the programs. Visitors who wait for typed models take no more than half of it.
_POOL: dict[str, Any] = {"concurrency_limit": 2 * MOST_TYPED_WAITING, "concurrency_id": "board"}
# A click on a picture of the board chooses the patch there; sliders do the same for the keyboard.
_CLICK_SCRIPT = """
element.addEventListener('click', (event) => {
  const picture = event.target.closest('.clickable img');
  if (!picture) return;
  const box = picture.getBoundingClientRect();
  trigger('click', {across: (event.clientX - box.left) / box.width, down: (event.clientY - box.top) / box.height});
});
"""
_CHOICE_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('.choice button');
  if (button) trigger('click', {name: button.dataset.name});
});
"""


def build_app(models: ModelCache, folder: Path) -> gr.Blocks:
    """Lay out the page with its queue; `folder` is the app's own temporary one, the only one it writes to."""
    uploads = folder / "uploads"
    uploads.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # gradio reads it when components are made
    examples_folder = uploads / "examples"  # where gradio serves files from
    examples_folder.mkdir(exist_ok=True)
    examples = draw_examples(examples_folder)
    results = ResultCache(models)
    with gr.Blocks(title="What does the network look at?", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        if models.shipped_only:
            gr.Markdown(SHIPPED_NOTICE, elem_classes="notice")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                image = image_input(label="Picture", sources=["upload", "webcam", "clipboard"], height=280)
                choice = gr.HTML(render_examples(examples), elem_id="examples", js_on_load=_CHOICE_SCRIPT)
                names = gr.Dropdown(
                    models.offered,
                    value=models.offered[:MOST_MODELS],
                    multiselect=True,
                    max_choices=MOST_MODELS,
                    allow_custom_value=True,
                    label="Models",
                    info="Up to three, side by side. Any public Hub id can be typed.",
                )
            with gr.Column(scale=3, min_width=300):
                active = gr.State(ATTENTION)
                tabs, controls = _lay_out_tabs()
                board = gr.HTML(render_message(NO_PICTURE), elem_id="board", js_on_load=_CLICK_SCRIPT)
        _connect_examples(choice, examples, image)
        _connect_board(results, examples, (active, image, names), tabs, controls, board)
        _connect_api(results, image, names, controls)
    page.queue(max_size=_LONGEST_QUEUE, default_concurrency_limit=2)
    start_deleting(uploads, _KEPT_SECONDS, _DELETE_EVERY_SECONDS, examples.values())
    return page


def _lay_out_tabs() -> tuple[dict[str, Any], dict[str, Any]]:
    """The tabs by name with the row of the shared controls as `drawing`, and the controls by field of `Controls`."""
    tabs: dict[str, Any] = {}
    controls: dict[str, Any] = {}
    with gr.Tab(ATTENTION) as tabs[ATTENTION], gr.Row():
        controls["attention"] = gr.Dropdown(
            list(ATTENTION_KINDS), value=ATTENTION_KINDS[0], label="Attention map", min_width=260
        )
        controls["head"] = gr.Slider(1, 16, value=1, step=1, label="Head", info="for the map of one head")
    with gr.Tab(TOKENS) as tabs[TOKENS], gr.Row():
        controls["tokens"] = gr.Radio(
            [(f"{kind} (PCA)" if kind == "principal components" else kind, kind) for kind in TOKEN_KINDS],
            value=TOKEN_KINDS[0],
            label="Token map",
        )
        controls["across"] = gr.Slider(0, 1, value=0.5, step=0.01, label="Patch across", info="or click a picture")
        controls["down"] = gr.Slider(0, 1, value=0.5, step=0.01, label="Patch down", info="or click a picture")
    with gr.Tab(SEGMENTS) as tabs[SEGMENTS], gr.Row():
        tabs["class"] = gr.Radio(
            [(f"class {number}", number) for number in range(1, MOST_CLASSES + 1)], value=1, label="Next click"
        )
        controls["points"] = gr.Textbox(
            label="Points", lines=3, max_lines=3, info="class, across, down; a click on a picture adds a line"
        )
        tabs["clear"] = gr.Button("Clear the points", min_width=140)
    with gr.Tab(GRADIENTS) as tabs[GRADIENTS]:
        controls["gradients"] = gr.Radio(list(GRADIENT_KINDS), value=GRADIENT_KINDS[0], label="Map")
    with gr.Tab(FEATURES) as tabs[FEATURES]:
        controls["other"] = image_input(label="A second picture to compare with", sources=["upload"], height=200)
    with gr.Tab(ABOUT) as tabs[ABOUT]:
        gr.Markdown(ABOUT_TEXT)
    with gr.Row() as tabs["drawing"]:
        controls["strength"] = gr.Slider(
            0, 1, value=0.6, step=0.05, label="Overlay strength", info="0: the picture, 1: the map"
        )
        controls["mass"] = gr.Slider(0.05, 1, value=1, step=0.05, label="Share shown", info="of the map")
        controls["detail"] = gr.Radio([1, 2, 3], value=1, label="Detail", info="times the model's own input size")
    return tabs, controls


def _connect_examples(choice: Any, examples: dict[str, Path], image: Any) -> None:
    """A click on an example, or Enter, makes it the picture."""

    def choose_example(event: gr.EventData) -> str:
        return str(examples[event.name])

    choice.click(show_errors(choose_example), None, image, queue=False, api_visibility="private")


def _connect_board(
    results: ResultCache,
    examples: dict[str, Path],
    source: tuple[Any, Any, Any],
    tabs: dict[str, Any],
    controls: dict[str, Any],
    board: Any,
) -> None:
    """Draw the board anew whenever the picture, the models, the tab or a control changes."""

    def show(view: str, path: str | None, names: list[str], *values: Any) -> Iterator[str]:
        try:
            settings = Controls(**dict(zip(controls, values, strict=True)))
            yield from render_board(results, view, path, names, settings, examples)
        except Exception as error:
            yield render_message(explain_error(error), problem=True)

    def choose_patch(view: str, points: str, number: int, event: gr.EventData) -> tuple[Any, Any, Any]:
        across, down = round(float(event.across), 2), round(float(event.down), 2)
        if view == SEGMENTS:
            return gr.skip(), gr.skip(), f"{points}\n{number} {across} {down}".strip()
        return across, down, gr.skip()

    active, image, names = source
    drawing: dict[str, Any] = {
        "fn": show,
        "inputs": [active, image, names, *controls.values()],
        "outputs": board,
        "trigger_mode": "always_last",
        "show_progress": "minimal",
        **_POOL,
        "api_visibility": "private",
    }
    gr.on([image.change, names.change, *(control.change for control in controls.values())], **drawing)
    row, mass = tabs["drawing"], controls["mass"]
    for name in (ATTENTION, TOKENS, SEGMENTS, GRADIENTS, FEATURES, ABOUT):
        # One after the other: what is shown depends on the tab that the click has just noted.
        select = functools.partial(_select_tab, name)
        chosen = tabs[name].select(select, None, [active, row, mass], queue=False, api_visibility="private")
        chosen.then(**drawing)
    chosen_patch = [controls[name] for name in ("across", "down", "points")]
    given = [active, controls["points"], tabs["class"]]
    board.click(choose_patch, given, chosen_patch, queue=False, api_visibility="private")
    tabs["clear"].click(lambda: "", None, controls["points"], queue=False, api_visibility="private")


def _select_tab(name: str) -> tuple[str, Any, Any]:
    """Its name, and which of the shared controls mean something on it."""
    drawn = name in (ATTENTION, TOKENS, SEGMENTS, GRADIENTS)
    return name, gr.update(visible=drawn), gr.update(visible=name in (ATTENTION, GRADIENTS))


def _connect_api(results: ResultCache, image: Any, names: Any, controls: dict[str, Any]) -> None:
    """Named endpoints for programs: pictures with captions instead of a page."""

    def endpoint(view: str, fields: tuple[str, ...]) -> Any:
        @show_errors
        def draw(path: str | None, names: list[str], *values: Any) -> list[tuple[str, str]]:
            settings = Controls(**dict(zip(fields, values, strict=True)))
            *_, panels = draw_panels(results, view, path, names, settings)
            drawn = [(panel, panel.picture) for panel in panels if panel.picture is not None]
            problems = [panel for panel in panels if panel.without == "problem"]
            if problems or not drawn:
                raise ValueError("; ".join(f"{panel.title}: {panel.description}" for panel in problems or panels))
            cache = Path(gallery.GRADIO_CACHE)
            return [(save_answer(picture, cache), f"{panel.title}: {panel.description}") for panel, picture in drawn]

        # gradio names an endpoint's arguments by the signature.
        named = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in ("picture", "models", *fields)]
        function: Any = draw
        function.__signature__ = inspect.Signature(named)
        return function

    @show_errors
    def compare(picture: str | None, other: str | None, models: list[str]) -> str:
        if other is None:
            raise ValueError("No second picture: give two to compare.")
        return "\n".join(describe_similarity(results, name, picture, other) for name in check_names(models))

    fields = {
        "attention": (ATTENTION, ("detail", "attention", "head", "mass", "strength")),
        "tokens": (TOKENS, ("detail", "tokens", "across", "down", "strength")),
        "segments": (SEGMENTS, ("detail", "points", "strength")),
        "gradients": (GRADIENTS, ("detail", "gradients", "mass", "strength")),
    }
    with gr.Row(visible=False):
        gallery, sentences = gr.Gallery(), gr.Textbox()
        for api_name, (view, wanted) in fields.items():
            inputs = [image, names, *(controls[field] for field in wanted)]
            gr.Button().click(endpoint(view, wanted), inputs, gallery, api_name=api_name, **_POOL)
        gr.Button().click(compare, [image, controls["other"], names], sentences, api_name="compare", **_POOL)


def explain_error(error: Exception) -> str:
    """What a visitor is told: a ValueError explains itself; what nobody foresaw is logged with its traceback."""
    if isinstance(error, ValueError):
        return str(error)
    logger.error("an event failed", exc_info=error)
    return f"Something unexpected went wrong here ({type(error).__name__}). Try another picture or model."


def show_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn every failure of an event into a message for the visitor, never a stack trace."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(explain_error(error), title="That did not work", print_exception=False) from None

    return guarded


def launch(page: gr.Blocks, host: str = "127.0.0.1", port: int = 7860, **settings: Any) -> tuple[Any, str, str]:
    """Serve the page, at a free port where it is 0; `settings` are more arguments of gradio's launch.

    Gives the server's application, its local address, and its public one if there is one.
    """
    return page.launch(
        server_name=host,
        server_port=port or None,
        max_file_size=LARGEST_UPLOAD_BYTES,
        show_error=False,
        ssr_mode=False,
        share=False,
        footer_links=["api"],
        theme=gr.themes.Soft(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
            block_title_background_fill="transparent", block_title_padding="0", block_title_text_color="*neutral_800"
        ),
        css=_STYLE.read_text(),
        **settings,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until stopped.

    Without `--models` the variable SYNCO_SPACE_MODELS (names separated by commas) counts, then what is installed or
    ships.
    """
    parser = argparse.ArgumentParser(prog="synco-hub space", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    parser.add_argument("--models", nargs="*", default=None)
    chosen = parser.parse_args(arguments)
    offered = chosen.models or [name for name in os.environ.get("SYNCO_SPACE_MODELS", "").split(",") if name]
    # A stop must not leave visitors' pictures behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with report_errors(), tempfile.TemporaryDirectory(prefix="synco-space-") as folder:
        tempfile.tempdir = folder  # also for what a library would write elsewhere
        for name in offered:
            check_offered(name)
        page = build_app(ModelCache(offered), Path(folder))
        try:
            launch(page, chosen.host, chosen.port)
        except OSError as error:
            if "empty port" not in str(error):
                raise
            raise OSError(
                f"--port {chosen.port}: in use on {chosen.host}, or not allowed; give another, or 0 for a free one."
            ) from None


def check_offered(name: str) -> None:
    """Refuse a name that no visitor could choose with success, before the page opens."""
    model = find_backbone_name(name)
    if not model.startswith(TIMM_PREFIX):
        check_model_name(model)
        resolve(model)


if __name__ == "__main__":
    main()
