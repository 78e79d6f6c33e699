"""Pictures of README and site: what `synco-hub attention` draws of examples, and the page as a browser shows it.

Run: python docs/make_pictures.py --output model_cards/images [--only attention|page]
Draws with the three networks that ship; for the page needs playwright and a chromium; takes two minutes.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from space_app.app import build_app, launch
from space_app.model_cache import ModelCache
from space_app.uploads import draw_examples
from synco_hub.atomic_write import atomic_write

logger = logging.getLogger(__name__)

DEMO_MODELS = ("synco-v2-vit-nano", "moby-vit-nano", "byol-vit-nano")
IMAGES = {"fern.png": "barnsley fern 1", "leaf.png": "maple leaf 1", "triangle.png": "sierpinski triangle 1"}
EXAMPLE = IMAGES["leaf.png"]
WIDTH = 1000
LARGEST_BYTES = 150_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The page asks elsewhere for fonts: nothing here depends on what is reachable.
_BROWSER_FLAGS = ("--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
_ALL_DRAWN = "count => [...document.querySelectorAll('#board img')].filter(image => image.complete).length === count"


def attention_commands(models: Sequence[str]) -> dict[str, list[str]]:
    """The arguments of `synco-hub attention` for each picture; where one ViT is shown, it is the first."""
    images = [argument for name in IMAGES for argument in ("--image", name)]
    several = [argument for model in models for argument in ("--model", model)]
    kinds = [part for kind in ("cls", "rollout", "tokens", "foreground") for part in ("--kind", kind)]
    return {
        "compared.png": [*several, *images],
        "heads.png": ["--model", models[0], "--image", "fern.png", "--strength", "0.8"],
        "kinds.png": ["--model", models[0], *images, *kinds, "--detail", "3", "--strength", "0.8"],
    }


def draw_attention(output: Path, models: Sequence[str] = DEMO_MODELS) -> list[Path]:
    """Draw the pictures of :func:`attention_commands`; a ValueError has the words of a command that failed."""
    models = [str(Path(model).resolve()) if Path(model).is_dir() else model for model in models]
    commands = attention_commands(models)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        examples = draw_examples(folder)
        for name, example in IMAGES.items():
            shutil.copyfile(examples[example], folder / name)
        for name, arguments in commands.items():
            logger.info("synco-hub attention %s --output %s", shlex.join(arguments), name)
            command = [sys.executable, "-m", "synco_hub.cli", "attention", *arguments, "--output", name]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ValueError(f"{name} could not be drawn: {(done.stderr.splitlines() or ['?'])[-1]}")
        return [save_for_readme(folder / name, output / f"attention-{Path(name).stem}.jpg") for name in commands]


def photograph_page(destination: Path, models: Sequence[str] = DEMO_MODELS) -> Path:
    """Serve the page, choose an example, and keep what is seen of one to three ViTs.

    A ValueError says that there is no browser, or the page does not show a picture of every model in two minutes.
    """
    browser_path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser_path is None:
        raise ValueError(f"no browser: none of {', '.join(BROWSERS)} is on the PATH; `make browser` installs one.")
    from playwright.sync_api import Error, sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        page = build_app(ModelCache(models), Path(temporary))
        _, address, _ = launch(page, port=0, prevent_thread_lock=True, quiet=True)
        browser = playwright.chromium.launch(executable_path=browser_path, args=_BROWSER_FLAGS)
        try:
            seen = browser.new_page(viewport={"width": 1280, "height": 860})
            seen.set_default_timeout(120_000)
            seen.goto(address, wait_until="domcontentloaded")
            seen.get_by_role("button", name=EXAMPLE).click()
            seen.wait_for_function(_ALL_DRAWN, arg=len(models))
            seen.wait_for_timeout(1000)  # until the page's own transitions have ended
            seen.screenshot(path=f"{temporary}/page.png")
        except Error as error:
            raise ValueError(f"the page did not show {', '.join(models)}: {error.message.splitlines()[0]}") from error
        finally:
            browser.close()
            page.close()
        return save_for_readme(Path(temporary) / "page.png", destination)


def save_for_readme(source: Path, destination: Path) -> Path:
    """Save as a JPEG at most 1000 pixels wide; colours at full resolution keep the letters sharp."""
    with Image.open(source) as figure:
        height = round(figure.height * min(WIDTH / figure.width, 1))
        small = figure.convert("RGB").resize((min(WIDTH, figure.width), height), Image.Resampling.LANCZOS)
    with atomic_write(destination) as unfinished:
        small.save(unfinished, "jpeg", quality=90, subsampling=0, optimize=True)
    if destination.stat().st_size > LARGEST_BYTES:
        logger.warning(
            "%s has %d kB, more than %d", destination, destination.stat().st_size // 1000, LARGEST_BYTES // 1000
        )
    return destination


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("model_cards/images"))
    parser.add_argument("--models", nargs="+", default=list(DEMO_MODELS))
    parser.add_argument("--only", choices=["attention", "page"], help="draw these alone")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    paths = [] if chosen.only == "page" else draw_attention(chosen.output, chosen.models)
    if chosen.only != "attention":
        paths.append(photograph_page(chosen.output / "space.jpg", chosen.models))
    for path in paths:
        logger.info("wrote %s (%d kB)", path, path.stat().st_size // 1000)


if __name__ == "__main__":
    main()
