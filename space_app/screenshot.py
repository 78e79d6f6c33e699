"""The README's picture of the page: what one sees who chooses an example.

Run: python -m space_app.screenshot --output model_cards/images
Needs the networks of `space_app.tutorial`, playwright and a chromium; takes half a minute.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from space_app.app import build_app, launch
from space_app.model_cache import ModelCache
from space_app.tutorial import DEMO_MODELS, IMAGES, shrunk

logger = logging.getLogger(__name__)

EXAMPLE = IMAGES["leaf.png"]
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The page asks elsewhere for fonts: nothing here depends on what is reachable.
_FLAGS = ("--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
_ALL_DRAWN = "count => [...document.querySelectorAll('#board img')].filter(image => image.complete).length === count"


def photograph_page(destination: Path, models: Sequence[str] = DEMO_MODELS) -> Path:
    """Serve the page, choose an example, and keep what is seen.

    Args:
        destination: JPEG to write.
        models: ViTs to show, one to three short names or checkpoint directories.

    Returns:
        The file, at most 1000 pixels wide.

    Raises:
        ValueError: If there is no browser, or the page does not show a picture of every model in two minutes.
    """
    browser_path = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser_path is None:
        raise ValueError(f"no browser: none of {', '.join(_BROWSERS)} is on the PATH; `make browser` installs one.")
    from playwright.sync_api import Error, sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        page = build_app(ModelCache(models), Path(temporary))
        _, address, _ = launch(page, port=0, prevent_thread_lock=True, quiet=True)
        browser = playwright.chromium.launch(executable_path=browser_path, args=_FLAGS)
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
        return shrunk(Path(temporary) / "page.png", destination)


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the picture.

    Args:
        arguments: Command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m space_app.screenshot", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--output", type=Path, default=Path("model_cards/images"))
    parser.add_argument("--models", nargs="+", default=list(DEMO_MODELS))
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logger.info("wrote %s", photograph_page(chosen.output / "space.jpg", chosen.models))


if __name__ == "__main__":
    main()
