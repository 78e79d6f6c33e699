"""Notebooks run from top to bottom as they stand, in an empty folder and without a network."""

import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
LARGEST_BYTES = 300_000
# Begins like a path of a machine; of a web address and of `folder/file` it is the middle.
ABSOLUTE = re.compile(r"(?<![\w.~/:])/(?:[\w.-]+/)+[\w.-]+|[A-Z]:\\\w")


def load_script(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load_script("run_notebooks")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    for output in cell.outputs:
        yield output.get("text", "")
        yield output.get("data", {}).get("text/plain", "")


def kinds(notebook):
    """What each cell gave: numbers may differ from machine to machine, kinds may not."""
    return [
        [(output.output_type, sorted(output.get("data", {}))) for output in cell.outputs]
        for cell in code_cells(notebook)
    ]


def test_there_are_six():
    assert [name[0] for name in NAMES] == list("123456")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_what_is_saved_is_of_one_run_from_top_to_bottom_and_of_no_machine(path, script):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) >= 3
    for cell in cells:
        assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in cell.outputs)
        assert [text for text in (cell.source, *texts(cell)) if ABSOLUTE.search(text)] == []
        assert not any("\r" in text or "it/s" in text or "Warning" in text for text in texts(cell))
        drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
        assert drawn == ("alt" in cell.metadata), f"a cell that draws has words for it: {cell.source[:60]}"
    assert notebook.metadata == script.KERNEL
    assert path.stat().st_size <= LARGEST_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_is_a_page_with_a_title_whose_links_lead_to_pages_and_notebooks(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for link in re.findall(r"\]\(([^)#]+)", cell.source):
                assert (path.parent / link).is_file(), link


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_runs_in_an_empty_folder_without_a_network(path, script, tmp_path):
    notebook, asked = script.run_notebook(path, tmp_path)
    assert asked == []
    assert kinds(notebook) == kinds(nbformat.read(path, as_version=4))


def test_a_run_is_kept_without_progress_kernels_and_places(script, tmp_path):
    cells = [
        new_markdown_cell("# A look"),
        new_code_cell("import sys\nprint('61.9')\nprint('50 %', file=sys.stderr)"),
        new_code_cell("%%bash\nsynco-hub --help > help.txt\nhead -c 5 help.txt"),
        new_code_cell(
            "import socket\ntry:\n    socket.create_connection(('hub.example', 443))\nexcept OSError as e: print(e)"
        ),
    ]
    cells[1].metadata["scrolled"] = True
    nbformat.write(
        new_notebook(cells=cells, metadata={"kernelspec": {"name": "mine", "display_name": "Mine"}}),
        tmp_path / "a.ipynb",
    )
    notebook, asked = script.run_notebook(tmp_path / "a.ipynb", tmp_path / "run")
    assert [[output.text for output in cell.outputs] for cell in code_cells(notebook)][:2] == [["61.9\n"], ["usage"]]
    assert notebook.metadata == script.KERNEL
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert asked == ["hub.example"]


def test_a_command_that_fails_ends_the_run(script, tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("%%bash\nsynco-hub fly 2> said.txt")]), tmp_path / "a.ipynb")
    with pytest.raises(CellExecutionError):
        script.run_notebook(tmp_path / "a.ipynb", tmp_path / "run")


def test_a_picture_has_the_words_of_its_cell(script):
    cell = new_code_cell(
        "draw()", metadata={"alt": "A fern"}, outputs=[new_output("display_data", {"image/png": "QUJD"})]
    )
    assert script.tidy(new_notebook(cells=[cell])).cells[0].outputs[0].metadata == {"alt": "A fern"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("saved in /srv/me/run", True),
        ("'/x/y'", True),
        ("C:\\me", True),
        ("https://a.example/b/c", False),
        ("runs/tiles/a.png", False),
        ("1/2 and ~/x/y", False),
    ],
)
def test_places_of_a_machine_are_told_from_others(text, found):
    assert bool(ABSOLUTE.search(text)) == found


def test_on_the_site_shell_is_shell_and_links_lead_to_pages():
    pages = load_script("site_pages")
    text = pages.write_notebook({"cells": [new_code_cell("%%bash\nsynco-hub list"), new_code_cell("list()")]})
    assert text == "```bash\nsynco-hub list\n```\n\n```python\nlist()\n```\n"
    linked = "[a](notebooks/1-a.ipynb), [b](2-b.ipynb), [c](c.md), `3-c.ipynb`"
    assert pages.on_page_markdown(linked) == "[a](notebooks/1-a.md), [b](2-b.md), [c](c.md), `3-c.ipynb`"


def test_every_saved_page_of_the_site_has_its_pictures(site):
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        page = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert page.count('src="data:image/png') == sum("alt" in cell.metadata for cell in code_cells(notebook))
        assert f'href="{path.stem}.html"' in (site / "notebooks" / f"{NAMES[0]}.html").read_text(encoding="utf-8") or (
            path == NOTEBOOKS[0]
        )
