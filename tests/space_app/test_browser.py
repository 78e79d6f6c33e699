"""The page in a real browser: choose, upload, slide, click, press keys; screenshots are kept as artifacts.

Needs Debian's chromium (`make browser` installs it) and playwright. Where there is no browser the tests are skipped
and say why; where the variable CI is set they fail. Screenshots go to $SYNCO_SCREENSHOTS, else to pytest's own folder.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsing import audit, keep_screenshots, launch_browser
from PIL import Image

# One server and one browser serve the whole file: it belongs to one worker.
pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]

WAIT = 60_000  # milliseconds
# What axe finds in gradio's own elements: grey words too pale, and an upload whose label is not what it shows.
OF_GRADIO = {"color-contrast", "label-content-name-mismatch"}
OURS = "#board, #examples, .panels, .empty, .notice"


@pytest.fixture(scope="module")
def address(tmp_path_factory, save_checkpoint) -> Iterator[str]:
    from space_app.app import build_app, launch
    from space_app.model_cache import ModelCache

    checkpoints = tmp_path_factory.mktemp("models")
    names = [save_checkpoint(checkpoints / f"random-{backbone}", backbone) for backbone in ("vit-nano", "swin-nano")]
    before = os.environ.get("GRADIO_TEMP_DIR")
    page = build_app(ModelCache(names), tmp_path_factory.mktemp("app"))
    launch(page, port=0, prevent_thread_lock=True, quiet=True)
    yield page.local_url
    page.close()
    if before is None:
        os.environ.pop("GRADIO_TEMP_DIR")
    else:
        os.environ["GRADIO_TEMP_DIR"] = before


@pytest.fixture(scope="module")
def browser():
    with launch_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory) -> Path:
    return keep_screenshots(tmp_path_factory)


@pytest.fixture
def visit(address, browser, screenshots):
    visitors = []

    def open_page(width: int = 1280, height: int = 900) -> "Visitor":
        visitors.append(Visitor(browser, address, screenshots, width, height))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.page.close()


def photograph(folder: Path, seed: int = 0) -> Path:
    """Something bright on a dark ground, with the grain of a photograph."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:480, 0:640]
    centre = generator.uniform(0.3, 0.7, 2) * (480, 640)
    thing = np.exp(-((((rows - centre[0]) / 90) ** 2 + ((columns - centre[1]) / 130) ** 2) ** 2))
    ground = np.stack([rows / 9, 40 + columns / 16, 90 - rows / 8], axis=-1)
    pixels = ground + thing[..., None] * generator.uniform(120, 220, 3) + generator.normal(0, 6, (480, 640, 3))
    path = folder / f"photograph {seed}.jpg"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


class Visitor:
    """A page with its console, and the waiting that a person does by looking."""

    def __init__(self, browser, address: str, screenshots: Path, width: int, height: int) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(WAIT)
        self.screenshots = screenshots
        self.errors: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.get_by_role("tab", name="Attention").wait_for()
        self.page.get_by_text("Upload a picture, take one").wait_for()

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
        )
        return self.pictures()

    def upload(self, path: Path) -> None:
        self.page.set_input_files("input[type=file] >> nth=0", str(path))

    def set_slider(self, label: str, value: float) -> None:
        box = self.page.get_by_label(re.compile(f"number input for {re.escape(label)}"))
        box.first.fill(str(value))
        box.first.press("Enter")

    def screenshot(self, name: str) -> None:
        self.page.wait_for_timeout(250)  # until the page's own transitions have ended
        self.page.screenshot(path=self.screenshots / f"{name}.png", full_page=True)


def test_a_visitor_sees_pictures_change(visit, tmp_path):
    visitor = visit()
    page = visitor.page
    visitor.screenshot("start")
    visitor.upload(photograph(tmp_path))
    # The Swin has no [CLS] attention: one picture, and words in place of the other.
    seen = visitor.changed([], 1)
    page.get_by_text("a Swin attends within windows").wait_for()
    visitor.screenshot("attention")
    visitor.set_slider("Overlay strength", 0.9)
    seen = visitor.changed(seen, 1)
    visitor.set_slider("Share shown", 0.4)
    seen = visitor.changed(seen, 1)
    page.get_by_role("tab", name="Tokens").click()
    seen = visitor.changed(seen, 2)
    box = page.locator("#board img").first.bounding_box()
    page.mouse.click(box["x"] + 0.1 * box["width"], box["y"] + 0.9 * box["height"])
    seen = visitor.changed(seen, 2)
    page.get_by_text("row 4 of 4, column 1 of 4").wait_for()
    visitor.screenshot("tokens")
    page.get_by_label("principal components").check()
    seen = visitor.changed(seen, 2)
    page.get_by_role("tab", name="Segments").click()
    seen = visitor.changed(seen, 2)
    page.get_by_text("no point yet").first.wait_for()
    for number, (across, down) in enumerate(((0.1, 0.1), (0.5, 0.5)), start=1):
        page.get_by_label(f"class {number}").check()
        box = page.locator("#board img").first.bounding_box()
        page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])
        seen = visitor.changed(seen, 2)
    page.get_by_text("2 points of classes 1, 2").first.wait_for()
    visitor.screenshot("segments")
    page.get_by_role("button", name="Clear the points").click()
    seen = visitor.changed(seen, 2)
    page.get_by_role("tab", name="Gradients and windows").click()
    seen = visitor.changed(seen, 2)
    page.get_by_text("Grad-CAM of the norm of the feature").first.wait_for()
    visitor.screenshot("gradients")
    page.get_by_role("tab", name="Features").click()
    seen = visitor.changed(seen, 10)
    visitor.screenshot("features")
    page.get_by_role("tab", name="About").click()
    page.get_by_text("Your pictures").wait_for()
    visitor.changed(seen, 0)
    visitor.screenshot("about")
    assert visitor.errors == []


def test_models_are_chosen_and_every_picture_has_words(visit, tmp_path):
    visitor = visit()
    page = visitor.page
    visitor.upload(photograph(tmp_path, 1))
    page.get_by_role("tab", name="Gradients and windows").click()
    both = visitor.changed([], 2)
    models = page.get_by_role("combobox", name="Models")
    models.press("Backspace")  # takes the last one away
    one = visitor.changed(both, 1)
    assert one == both[:1]
    models.fill("no such model")
    models.press("Enter")
    page.get_by_role("alert").filter(has_text="is not a model").wait_for()
    assert visitor.changed(both, 1) == one
    visitor.screenshot("no such model")
    words = page.eval_on_selector_all("#board img", "images => images.map(image => image.alt)")
    assert words == ["random-vit-nano: Grad-CAM of the norm of the feature (this checkpoint has no classifier)"]
    # The visitor's own picture is gradio's, and has none.
    assert page.eval_on_selector_all("img", "images => images.filter(image => !image.alt).length") == 1
    assert visitor.errors == []


def test_the_keyboard_reaches_and_changes_everything(visit, tmp_path):
    visitor = visit()
    page = visitor.page
    visitor.upload(photograph(tmp_path, 2))
    seen = visitor.changed([], 1)
    wanted = {"picture", "maple leaf 2", "models", "attention", "map", "head", "strength", "share", "detail"}
    reached = set()
    page.keyboard.press("Tab")
    for _ in range(60):
        name = page.evaluate(
            "() => { const e = document.activeElement; const group = e.closest('fieldset');"
            " return [e.getAttribute('aria-label'), e.innerText, e.labels?.[0]?.innerText,"
            " group?.innerText, e.closest('#examples') && e.querySelector('img').alt].join(' ').toLowerCase(); }"
        )
        reached |= {word for word in wanted if word in name}
        if "range slider for overlay strength" in name:
            page.keyboard.press("ArrowRight")
            seen = visitor.changed(seen, 1)
        page.keyboard.press("Tab")
    assert reached == wanted
    page.get_by_role("tab", name="Attention").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("tab", name="Tokens").get_attribute("aria-selected") == "true"
    visitor.changed(seen, 2)
    assert visitor.errors == []


def test_a_broken_file_gives_a_message_and_the_page_lives_on(visit, tmp_path):
    visitor = visit()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    visitor.upload(broken)
    visitor.page.get_by_role("alert").filter(has_text="no picture that can be read").wait_for()
    visitor.screenshot("message")
    assert "Traceback" not in visitor.page.content()
    visitor.page.get_by_role("button", name="Remove Image").first.click()
    visitor.upload(photograph(tmp_path))
    visitor.changed([], 1)


def test_an_example_is_chosen_on_a_telephone(visit):
    visitor = visit(390, 844)
    visitor.page.locator("#examples button").nth(2).click()
    visitor.changed([], 1)
    visitor.screenshot("telephone")
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert visitor.errors == []


def find_ours(page) -> set[tuple[str, str]]:
    """Findings of axe in what this project draws, or by a rule that gradio's elements keep."""
    inside = f"element => element.closest({OURS!r}) !== null"
    return {
        (rule, target)
        for rule, target in audit(page)
        if rule not in OF_GRADIO or page.eval_on_selector(target, inside)
    }


@pytest.mark.slow
@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_an_audit_finds_nothing_of_ours(visit, tmp_path, theme, width):
    visitor = visit(width, 900)
    if theme == "dark":
        visitor.page.goto(f"{visitor.page.url.rstrip('/')}/?__theme=dark", wait_until="domcontentloaded")
        visitor.page.get_by_text("Upload a picture, take one").wait_for()
        assert visitor.page.evaluate("document.body.classList.contains('dark')")
    visitor.upload(photograph(tmp_path, 3))
    visitor.changed([], 1)
    found = find_ours(visitor.page)
    if theme == "light":  # on a telephone tabs lie in a menu
        for tab in ("Tokens", "Segments", "Gradients and windows", "Features", "About"):
            visitor.page.get_by_role("tab", name=tab).click()
            visitor.page.wait_for_timeout(1500)
            found |= find_ours(visitor.page)
    assert found == set()
