from pathlib import Path

from command_line import invoke

from synco_hub.data.catalog.rows import CATALOG
from synco_hub.data.catalog.table import BEGIN, END, catalog_markdown

README = Path(__file__).parents[4] / "README.md"


def test_the_readme_has_the_table_of_the_catalog():
    text = README.read_text(encoding="utf-8")
    assert (text.count(BEGIN), text.count(END)) == (1, 1)
    block = text.split(BEGIN)[1].split(END)[0]
    assert block.strip() == catalog_markdown(CATALOG.values()).strip()


def test_the_command_prints_it():
    printed = invoke(["data", "list", "--markdown"]).output
    assert printed == catalog_markdown(CATALOG.values())


def test_every_row_has_its_numbers():
    lines = catalog_markdown(CATALOG.values()).splitlines()
    assert len(lines) == len(CATALOG) + 2
    assert {line.count("|") for line in lines} == {8}
    flowers = next(line for line in lines if line.startswith("| `flowers102`"))
    assert "`dpdl-benchmark/oxford_flowers102` | 102 | 2,040 | 6,149 | mean per-class accuracy | no" in flowers
    assert next(line for line in lines if line.startswith("| `imagenet-a`")).split(" | ")[3] == "–"
