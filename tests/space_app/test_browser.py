"""The page in a real browser: choose, upload, slide, click a patch; screenshots are kept as artifacts.

Needs Debian's chromium (`apt-get install chromium`) and playwright; where the variable CI is set their absence fails.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.models import SynCoConfig, SynCoModel, image_processor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
SCREENSHOTS = Path(os.environ.get("SYNCO_SCREENSHOTS", "build/screenshots"))
WAIT = 90_000
# gradio's page asks for fonts and a script from elsewhere; here they fail at once instead of after a timeout.
ONLY_LOOPBACK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    from space_app.app import build_app, launch
    from space_app.model_cache import ModelCache

    names = []
    for backbone in ("vit-nano", "swin-nano"):
        torch.manual_seed(0)
        directory = tmp_path_factory.mktemp("models") / f"random-{backbone}"
        SynCoModel(SynCoConfig(backbone=backbone)).save_pretrained(directory)
        image_processor(32).save_pretrained(directory)
        names.append(str(directory))
    page = build_app(ModelCache(names), tmp_path_factory.mktemp("app"))
    launch(page, port=0, prevent_thread_lock=True, quiet=True)
    yield page.local_url
    page.close()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        message = "no chromium: apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", ONLY_LOOPBACK])
        yield browser
        browser.close()


def photograph(folder: Path, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path = folder / f"photo{seed}.jpg"
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(path)
    return path


class Visitor:
    """A page with its console, and the waiting that a person does by looking."""

    def __init__(self, browser, address: str, width: int, height: int) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.errors: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address, wait_until="domcontentloaded", timeout=WAIT)
        self.page.get_by_text("What does the network look at?").first.wait_for(timeout=WAIT)

    def _hear(self, said) -> None:
        if said.type == "error" and not re.match(r"https?://(?!127\.0\.0\.1)", said.location.get("url", "")):
            self.errors.append(f"{said.text} ({said.location})")

    def pictures(self) -> list[str]:
        return self.page.eval_on_selector_all("#board img", "images => images.map(image => image.src)")

    def changed(self, before: list[str], count: int) -> list[str]:
        self.page.wait_for_function(
            "([before, count]) => { const now = [...document.querySelectorAll('#board img')].map(i => i.src);"
            " return now.length === count && now.join() !== before.join(); }",
            arg=[before, count],
            timeout=WAIT,
        )
        return self.pictures()

    def upload(self, path: Path) -> None:
        self.page.set_input_files("input[type=file] >> nth=0", str(path))

    def set_slider(self, label: str, value: float) -> None:
        box = self.page.get_by_label(re.compile(f"number input for {re.escape(label)}"))
        box.first.fill(str(value))
        box.first.press("Enter")

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def test_a_visitor_sees_pictures_change(address, browser, tmp_path):
    visitor = Visitor(browser, address, 1280, 900)
    page = visitor.page
    visitor.screenshot("start")
    visitor.upload(photograph(tmp_path))
    # The Swin has no [CLS] attention: one picture, and words in place of the other.
    seen = visitor.changed([], 1)
    page.get_by_text("a Swin attends within windows").wait_for(timeout=WAIT)
    visitor.screenshot("attention")
    visitor.set_slider("Overlay strength", 0.9)
    seen = visitor.changed(seen, 1)
    visitor.set_slider("Share of the map shown", 0.4)
    seen = visitor.changed(seen, 1)
    page.get_by_role("tab", name="Tokens").click()
    seen = visitor.changed(seen, 2)
    box = page.locator("#board img").first.bounding_box()
    page.mouse.click(box["x"] + 0.1 * box["width"], box["y"] + 0.9 * box["height"])
    seen = visitor.changed(seen, 2)
    page.get_by_text("row 4 of 4, column 1 of 4").wait_for(timeout=WAIT)
    visitor.screenshot("tokens")
    page.get_by_label("principal components").check()
    seen = visitor.changed(seen, 2)
    page.get_by_role("tab", name="Gradients and windows").click()
    seen = visitor.changed(seen, 2)
    visitor.screenshot("gradients")
    page.get_by_role("tab", name="Features").click()
    seen = visitor.changed(seen, 10)
    visitor.screenshot("features")
    page.get_by_role("tab", name="About").click()
    page.get_by_text("Your pictures").wait_for(timeout=WAIT)
    alternatives = page.eval_on_selector_all("#board img", "images => images.map(image => image.alt)")
    assert all(alternatives)
    visitor.screenshot("about")
    assert visitor.errors == []


def test_a_broken_file_gives_a_message_and_the_page_lives_on(address, browser, tmp_path):
    visitor = Visitor(browser, address, 1280, 900)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    visitor.upload(broken)
    visitor.page.get_by_text("no picture that can be read").first.wait_for(timeout=WAIT)
    visitor.screenshot("message")
    assert "Traceback" not in visitor.page.content()


def test_an_example_is_chosen_on_a_telephone(address, browser):
    visitor = Visitor(browser, address, 390, 844)
    visitor.page.locator(".gallery-item, .gallery button, table.gallery tr").first.click()
    visitor.changed([], 1)
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    visitor.screenshot("telephone")
    assert visitor.errors == []
