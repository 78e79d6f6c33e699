"""The site opened as a file in a real browser: by keyboard, on a telephone, in both colours, and by axe-core.

Screenshots of three pages at two widths go to $SYNCO_SCREENSHOTS, else to pytest's own folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from browsing import audit, keep_screenshots, launch_browser, require_npm_package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WIDE, TELEPHONE = (1280, 900), (390, 844)
AUDITED = (
    *("index", "how-to", "how-to-pretrain", "how-to-look", "understand-negatives", "understand-differences"),
    *("reference-commands", "reference-catalog", "reference-synco_hub.data", "results-benchmarks", "errors"),
)
PHOTOGRAPHED = ("index", "how-to-pretrain", "understand-negatives")
# Serious findings of axe that the theme brings along; site.css and site.js have answered those it had.
OF_THE_THEME: set[tuple[str, str]] = set()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    return keep_screenshots(tmp_path_factory)


@dataclass
class Reader:
    """A page of the site with what it asked for and complained of."""

    page: Any
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(30_000)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    @property
    def asked_elsewhere(self) -> list[str]:
        return [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))]


@pytest.fixture
def read(browser, site):
    readers = []

    def open_page(name: str, size: tuple[int, int] = WIDE, colours: str = "light") -> Reader:
        width, height = size
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=colours)
        readers.append(Reader(page))
        page.goto((site / f"{name}.html").as_uri())
        page.wait_for_timeout(300)  # until the theme's script has finished the page
        return readers[-1]

    yield open_page
    for reader in readers:
        reader.page.close()


@pytest.mark.parametrize("size", [WIDE, TELEPHONE], ids=["wide", "telephone"])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_an_audit_finds_nothing_serious(read, size, colours):
    for name in AUDITED:
        reader = read(name, size, colours)
        scheme = reader.page.evaluate("document.body.dataset.mdColorScheme")
        assert scheme == {"light": "default", "dark": "slate"}[colours]
        assert audit(reader.page) - OF_THE_THEME == set(), name
        assert reader.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        assert reader.errors == [], name
        assert reader.asked_elsewhere == [], name


@pytest.mark.parametrize("size", [WIDE, TELEPHONE], ids=["wide", "telephone"])
def test_three_pages_are_photographed(read, screenshots, size):
    for name in PHOTOGRAPHED:
        reader = read(name, size)
        path = screenshots / f"site-{name}-{size[0]}.png"
        reader.page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 20_000


def test_a_newcomer_is_at_any_how_to_in_two_clicks(read, site):
    for path in sorted(site.glob("how-to-*.html")):
        reader = read("index")
        reader.page.locator(".md-tabs").get_by_role("link", name="How-to").click()
        reader.page.locator(f"article a[href='{path.name}']").first.click()
        reader.page.wait_for_url(f"**/{path.name}")
        assert reader.page.locator("article h1").count() == 1


def test_a_telephone_has_a_menu_that_leads_on(read):
    reader = read("index", TELEPHONE)
    page = reader.page
    page.locator("label.md-header__button[for='__drawer']").click()
    page.locator(".md-nav--primary label, .md-nav--primary a").filter(has_text="How-to").first.click()
    page.locator(".md-nav--primary a[href='how-to-streams.html']").click()
    page.wait_for_url("**/how-to-streams.html")
    assert reader.errors == []


def test_the_keyboard_skips_searches_scrolls_and_changes_colours(read):
    reader = read("results-benchmarks", TELEPHONE)
    page = reader.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").strip() == "Skip to content"
    page.keyboard.press("Enter")
    assert "#" in page.url
    wide = page.locator(".md-typeset__scrollwrap[tabindex='0']").first
    wide.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(500)
    assert wide.evaluate("element => element.scrollLeft") > 0
    page.locator("[name='__palette']").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.body.dataset.mdColorScheme") == "slate"
    assert reader.errors == []


def test_flags_are_not_broken_on_a_telephone(read):
    reader = read("how-to-pretrain", TELEPHONE)
    flags = reader.page.locator("article .flag")
    assert flags.count() > 20
    assert flags.evaluate_all("all => all.filter(each => each.getClientRects().length > 1)") == []
    blocks = reader.page.locator("article .language-bash code")
    assert blocks.count() > 5
    assert blocks.evaluate_all("all => all.filter(each => each.scrollWidth > each.clientWidth)") == []


def test_a_site_that_cannot_search_says_so(read, site):
    shim = site / "assets" / "javascripts" / "iframe-worker.js"
    kept = shim.read_text(encoding="utf-8")
    try:
        shim.write_text("// not installed\n", encoding="utf-8")
        field = read("index").page.locator(".md-search__input")
        assert field.is_disabled()
        assert "npm was missing" in str(field.get_attribute("placeholder"))
    finally:
        shim.write_text(kept, encoding="utf-8")


def test_what_is_typed_is_found_without_a_server(read):
    require_npm_package("iframe-worker")
    reader = read("index")
    page = reader.page
    page.keyboard.press("/")
    page.keyboard.type("synthesis window")
    page.locator(".md-search a", has_text="window").first.wait_for()
    assert reader.errors == []
    assert reader.asked_elsewhere == []
