"""The site is built without a warning, every link leads somewhere, and what is made shows what the program has."""

import ast
import importlib
import importlib.util
import json
import re
import sys
from collections import deque
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.config import load_config

from synco_hub.cli.main import COMMANDS
from synco_hub.data.catalog.sets import CATALOG, format_catalog
from synco_hub.protocols import EVALUATORS
from synco_hub.zoo import ZOO

ROOT = Path(__file__).resolve().parents[2]
# What a page loads by itself, as against what a reader may follow.
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}
NOT_LOADED = {"canonical", "next", "prev"}


def load_script(name: str):
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


class Page(HTMLParser):
    """Names, links and text of a page; what stands in its article apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.in_article: list[str] = []
        self.loaded: list[str] = []
        self.without_words: list[str] = []
        self._article = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._article += tag == "article"
        self.names |= {found[key] for key in ("id", "name") if found.get(key)}
        for key in ("href", "src"):
            if value := found.get(key):
                self.links.append(value)
                if self._article and tag == "a":
                    self.in_article.append(value)
                if (tag, key) in LOADED and found.get("rel") not in NOT_LOADED:
                    self.loaded.append(value)
        if tag == "img" and not found.get("alt"):
            self.without_words.append(found.get("src") or "")

    def handle_endtag(self, tag: str) -> None:
        self._article -= tag == "article"


@pytest.fixture(scope="module")
def pages(site):
    return {path.name: Page(path) for path in site.glob("*.html")}


def test_the_build_says_nothing_but_that_it_is_done(site):
    said = (site.parent / "build.log").read_text(encoding="utf-8")
    assert "Documentation built" in said
    assert "WARNING" not in said
    assert "ERROR" not in said


def test_every_link_leads_somewhere(site, pages):
    dead = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//") or name == "404.html":
                continue
            target = parts.path or name
            names = pages[target].names if target in pages and parts.fragment else {unquote(parts.fragment)}
            if not (site / unquote(target)).is_file() or unquote(parts.fragment) not in names:
                dead.append((name, link))
    assert dead == []


def test_no_page_loads_anything_from_another_host(pages):
    elsewhere = {
        link
        for page in pages.values()
        for link in page.loaded
        if not link.startswith("data:") and (urlsplit(link).scheme or link.startswith("//"))
    }
    assert elsewhere == set()


def test_docstrings_leave_no_marks_of_another_markup(site):
    for path in site.glob("reference-*.html"):
        assert re.findall(r":(?:func|class|mod|data|meth):", path.read_text(encoding="utf-8")) == [], path.name


def test_every_picture_has_words(pages):
    assert {name: page.without_words for name, page in pages.items() if page.without_words} == {}


def test_every_page_is_reached_and_a_how_to_in_two_clicks(pages):
    clicks = {"index.html": 0}
    queue = deque(clicks)
    while queue:
        page = queue.popleft()
        for link in pages[page].in_article:
            target = urlsplit(link).path
            if target in pages and target not in clicks:
                clicks[target] = clicks[page] + 1
                queue.append(target)
    assert set(pages) - set(clicks) == {"404.html"}
    how_tos = [name for name in pages if name.startswith("how-to-")]
    assert len(how_tos) >= 10
    assert max(clicks[name] for name in how_tos) <= 2


def test_commands_exports_data_sets_and_protocols_are_all_there(pages):
    commands = pages["reference-commands.html"].names
    assert {f"synco-hub-{name.replace(' ', '-')}" for name in COMMANDS} <= commands
    assert {f"evaluate-{name}" for name in EVALUATORS} <= pages["understand-protocols.html"].names
    made = load_script("site_pages")
    described = {name for page in pages.values() for name in page.names}
    for package in made.PACKAGES:
        assert set(made._find_homes(package).values()) <= described, package
        public = set(importlib.import_module(package).__all__)
        assert {name for name in public if not name.startswith("__")} == set(made._find_homes(package))
    catalog = made.write_catalog()
    assert format_catalog(CATALOG.values()) in catalog
    assert all(f"`{name}`" in catalog for name in ZOO)
    for text in (catalog, made.write_commands(), made.write_protocols(), *made.write_packages().values()):
        assert [line for line in text.splitlines() if len(line) == 1] == []


def test_every_flag_stands_in_the_table_of_its_command_or_is_named_there():
    from synco_hub.cli.main import build_parser

    made = load_script("site_pages")
    sections = dict(
        re.findall(r"^## (synco-hub .+?)\n(.+?)(?=^## |\Z)", made.write_commands(), re.MULTILINE | re.DOTALL)
    )
    for name, command in COMMANDS.items():
        parser = build_parser(name) if command.options else made._parser_of_trainer(name)
        for action in made._actions(parser) if parser else []:
            assert f"`{made._spell(action)}`" in sections[f"synco-hub {name}"], (name, action.dest)


# Errors


def templates_in(path: Path) -> Iterator[str]:
    """Every text of a file, with `…` for what is put into it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%(?:\.\d)?[sdfg]", "…", node.value)


def test_the_messages_of_the_page_of_errors_are_those_of_the_program():
    said = {
        text
        for package in ("synco_hub", "trainers")
        for path in (ROOT / package).rglob("*.py")
        for text in templates_in(path)
    }
    titles = re.findall(r"^## (.+)$", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(titles) == 16
    assert [title for title in titles if not any(title in text for text in said)] == []


# Notebooks and further how-tos


def test_notebooks_and_how_tos_that_lie_in_docs_are_in_the_navigation(tmp_path):
    made = load_script("site_pages")
    config = load_config(str(ROOT / "mkdocs.yml"))
    config.docs_dir = str(tmp_path)
    (tmp_path / "how-to-fly.md").write_text("# Fly\n")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "first-look.ipynb").write_text("{}")
    sections = {key: value for section in made.on_config(config).nav for key, value in section.items()}
    assert "how-to-fly.md" in sections["How-to"]
    assert sections["Notebooks"] == ["notebooks/first-look.md"]
    assert list(sections).index("Notebooks") == list(sections).index("How-to") + 1


def test_without_notebooks_there_is_no_section_of_them(tmp_path):
    config = load_config(str(ROOT / "mkdocs.yml"))
    config.docs_dir = str(tmp_path)
    assert not any("Notebooks" in section for section in load_script("site_pages").on_config(config).nav)


def test_a_saved_notebook_is_a_page_with_what_it_printed_and_drew():
    outputs = [
        {"output_type": "stream", "text": ["61.9\n"]},
        {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": "<Figure>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# A look\n", "and words"]},
        {"cell_type": "code", "source": "print(61.9)", "outputs": outputs},
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    text = load_script("site_pages").write_notebook(json.loads(json.dumps({"cells": cells})))
    assert text.startswith("# A look\nand words\n\n```python\nprint(61.9)\n```\n\n```text\n61.9\n```\n\n<img alt=")
    assert 'src="data:image/png;base64,QUJD"' in text


# Short is a promise


def test_the_readme_is_read_in_five_minutes_and_the_note_for_agents_is_one_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900
    assert len((ROOT / "AGENTS.md").read_text(encoding="utf-8").splitlines()) <= 60
