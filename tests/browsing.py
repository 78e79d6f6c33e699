"""What tests in a real browser share: where it is, how it is started, and the audit by axe-core."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # gradio's page asks for fonts and a script from elsewhere; here they fail at once instead of after a timeout.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
# `make npm` puts them there.
_PACKAGES = Path(__file__).resolve().parents[1] / ".venv" / "npm" / "node_modules"
_FINDINGS = """async () => {
    const found = await axe.run(document, {preload: false});
    return found.violations.flatMap(rule => rule.nodes.map(node => [rule.impact, rule.id, node.target.join(" ")]));
}"""


def require_browser() -> str:
    """The browser's path; where there is none the test is skipped, or fails if CI is set."""
    if CHROMIUM is None:
        message = "no chromium here: run `make browser` as root, or apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return CHROMIUM


@contextmanager
def launch_browser() -> Iterator[Any]:
    """A chromium of playwright, with a profile of its own that is deleted with it."""
    path = require_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


def require_npm_package(name: str) -> Path:
    """A package's folder; where npm is missing the test is skipped, or fails if CI is set."""
    folder = _PACKAGES / name
    if not folder.is_dir():
        message = f"no {name} here: `make npm` fetches it where there is npm"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return folder


def audit(page: Any) -> set[tuple[str, str]]:
    """Rule and element of every finding of axe that is serious or critical; moderate ones are not looked at."""
    # Past the page's content policy and without a request of its own.
    page.evaluate((require_npm_package("axe-core") / "axe.min.js").read_text(encoding="utf-8"))
    return {(rule, target) for impact, rule, target in page.evaluate(_FINDINGS) if impact in ("serious", "critical")}


def keep_screenshots(tmp_path_factory: Any) -> Path:
    """$SYNCO_SCREENSHOTS, else a folder of pytest's own."""
    given = os.environ.get("SYNCO_SCREENSHOTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
