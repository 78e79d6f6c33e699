"""Pages of the site that are made while it is built, from the tables that the program itself reads.

mkdocs calls the functions `on_*`. Made are the pages of the command line, of each package's `__all__` and of the
catalog; taken over are BENCHMARKS.md, CHANGELOG.md and CONTRIBUTING.md; put into the navigation are what lies in
docs/ as `how-to-*.md` without being listed in mkdocs.yml, and notebooks of docs/notebooks/, with their outputs as they
were saved.
"""

from __future__ import annotations

import html
import importlib
import inspect
import json
import re
import sys
from argparse import Action
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PACKAGES = {
    "synco_hub": "Load, list, embed, measure.",
    "synco_hub.models": "Configuration and networks, which travel to the Hub with the weights.",
    "synco_hub.data": "A choice of data becomes images, views and streams.",
    "synco_hub.evaluation": "k-NN and what protocols are built of.",
    "synco_hub.metrics": "Numbers from scores and targets, without side effects.",
    "synco_hub.visualization": "Attention, gradients and tokens as maps and figures.",
    "trainers": "Everything that steps an optimizer. The fields of `PretrainingSettings` and `SynCoTrainingArguments` "
    "are the flags of [pretrain](reference-commands.md#synco-hub-pretrain), with the same defaults.",
}
TAKEN_OVER = {
    "results-benchmarks.md": "BENCHMARKS.md",
    "reference-changes.md": "CHANGELOG.md",
    "reference-contributing.md": "CONTRIBUTING.md",
}
# A Worker's stand-in for a site that is opened as a file: browsers start none there. `make docs` gets it from npm.
FILE_WORKER = ROOT / ".venv" / "npm" / "node_modules" / "iframe-worker" / "shim" / "index.js"
FILE_WORKER_PAGE = "assets/javascripts/iframe-worker.js"
_SHARED = {
    "Flags of data": "Most commands that read images take some of these.",
    "Flags of a forward pass": "Commands that send images through a frozen network take them.",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation, and name no other host than the site's own."""
    docs, nav = Path(config.docs_dir), config.nav or []
    how_to = next(section["How-to"] for section in nav if "How-to" in section)
    listed = {page if isinstance(page, str) else next(iter(page.values())) for page in how_to}
    how_to[1:1] = [path.name for path in sorted(docs.glob("how-to-*.md")) if path.name not in listed]
    if notebooks := [f"notebooks/{path.stem}.md" for path in find_notebooks(docs)]:
        nav.insert(2, {"Notebooks": notebooks})
    # Named here, the offline plugin adds no address of its own.
    config.extra["polyfills"] = [FILE_WORKER_PAGE]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made: dict[str, str] = {
        "reference-commands.md": write_commands(),
        "reference-catalog.md": write_catalog(),
        "understand-protocols.md": write_protocols(),
        **write_packages(),
        **{page: take_over((ROOT / source).read_text(encoding="utf-8")) for page, source in TAKEN_OVER.items()},
    }
    for path in find_notebooks(Path(config.docs_dir)):
        made[f"notebooks/{path.stem}.md"] = write_notebook(json.loads(path.read_text(encoding="utf-8")))
        if (file := files.get_file_from_path(f"notebooks/{path.name}")) is not None:
            files.remove(file)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for picture in sorted((ROOT / "model_cards" / "images").iterdir()):
        files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    scaling = ROOT / "tests" / "benchmarks" / "results" / "scaling.png"
    files.append(File.generated(config, "pictures/scaling.png", abs_src_path=str(scaling)))
    worker = (
        FILE_WORKER.read_text(encoding="utf-8") if FILE_WORKER.is_file() else "// not installed: npm was missing\n"
    )
    files.append(File.generated(config, FILE_WORKER_PAGE, content=worker))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Roles of docstrings (``:func:`name` ``) are names here; words with dashes are marked, to stay whole."""
    content = re.sub(r":(?:func|class|mod|data|meth|attr):(?=<code)", "", content)
    content = re.sub(r"<code>(--[\w-]+)", r'<code><span class="flag">\1</span>', content)
    return re.sub(r'(<div class="language-bash highlight">)(.*?)(</div>)', _keep_words_whole, content, flags=re.DOTALL)


def _keep_words_whole(block: re.Match[str]) -> str:
    words = r"(?<![^\s>])([\w./~=:,+]*-[\w./~=:,+-]*)(?![^\s<])"
    parts = re.split(r"(<[^>]*>)", block[2])
    parts[::2] = [re.sub(words, r'<span class="flag">\1</span>', text) for text in parts[::2]]
    return block[1] + "".join(parts) + block[3]


def on_page_markdown(markdown: str, **about: Any) -> str:
    """Links to notebooks, which lead to files in the repository, lead to pages here."""
    return re.sub(r"(\]\([\w/.-]+)\.ipynb\)", r"\1.md)", markdown)


def take_over(text: str) -> str:
    """A file of the repository's root as a page: pictures and links from where the site has them."""
    text = text.replace("tests/benchmarks/results/scaling.png", "pictures/scaling.png")
    pages = {source: page for page, source in TAKEN_OVER.items()} | {"README.md": "index.md"}
    return re.sub(
        r"\]\((?:docs/)?([\w.-]+\.md)(#[\w-]+)?\)", lambda m: f"]({pages.get(m[1], m[1])}{m[2] or ''})", text
    )


# Packages


def write_packages() -> dict[str, str]:
    """A page for each package: what its `__all__` names, described where it is named nearest to its home."""
    homes = {package: _find_homes(package) for package in PACKAGES}
    described: dict[str, str] = {}
    for package in sorted(homes, key=lambda name: -name.count(".")):
        described = dict.fromkeys(homes[package].values(), package) | described
    pages = {}
    for package, words in PACKAGES.items():
        elsewhere = {name: home for name, home in homes[package].items() if described[home] != package}
        here = [home for home in homes[package].values() if home not in elsewhere.values()]
        lines = [f"# {package}", "", words, "", *(f"::: {home}\n" for home in here)]
        if elsewhere:
            links = ", ".join(f"[`{name}`][{home}]" for name, home in elsewhere.items())
            lines.insert(3, f"\nAlso here, and described with their own package: {links}.\n")
        pages[f"reference-{package}.md"] = "\n".join(lines)
    return pages


def _find_homes(package: str) -> dict[str, str]:
    module = importlib.import_module(package)
    return {name: _find_home(module, name) for name in module.__all__ if not name.startswith("__")}


def _find_home(module: Any, name: str) -> str:
    """The dotted path of an export where it is defined; a module of its name may lie at the package's door."""
    thing = getattr(module, name)
    own = inspect.isclass(thing) or inspect.isfunction(thing)
    return f"{thing.__module__}.{thing.__qualname__}" if own else f"{module.__name__}.{name}"


# The command line


def write_commands() -> str:
    """Every command with its flags; those that many share once, at the end."""
    from synco_hub.cli.main import COMMANDS, build_parser
    from synco_hub.flag_parser import FlagParser
    from synco_hub.settings import DatasetChoice, ForwardSettings

    shared = {title: FlagParser([kind]) for title, kind in zip(_SHARED, (DatasetChoice, ForwardSettings), strict=True)}
    known = {(action.dest, action.help): title for title, parser in shared.items() for action in _actions(parser)}
    lines = [
        "# Command line",
        "",
        "Made from the parsers. `synco-hub COMMAND --help` says the same; with `--debug` an error shows its "
        "traceback. A command that fails says so in one line and ends with a code other than 0.",
        "",
    ]
    for name, command in COMMANDS.items():
        parser = build_parser(name) if command.options else _parser_of_trainer(name)
        if parser is None:
            continue
        lines += [f"## synco-hub {name}", "", _as_text(command.summary), "", f"`{command.example}`", ""]
        own = [action for action in _actions(parser) if (action.dest, action.help) not in known]
        for title, actions in _in_groups(parser, own):
            lines += [f"**{title}**", ""] if title else []
            lines += [*_table_of(actions), ""]
        lines += _name_shared(parser, known)
    for title, parser in shared.items():
        lines += [f"## {title}", "", _SHARED[title], "", *_table_of(list(_actions(parser))), ""]
    return "\n".join(lines)


def _parser_of_trainer(name: str) -> Any:
    """The parser of a command that starts training: the flags that its `--help` shows."""
    from trainers import command as trainer

    module = importlib.import_module(f"trainers.{name.replace('-', '_')}")
    kinds = module.COMMAND.kinds
    return module.COMMAND._parser(kinds, "", {kind: trainer._list_common(kind) for kind in kinds})


def _actions(parser: Any) -> Iterator[Action]:
    return (action for action in parser._actions if action.dest != "help")


def _in_groups(parser: Any, actions: list[Action]) -> Iterator[tuple[str, list[Action]]]:
    places, options, *further = parser._action_groups
    for title, members in (
        ("", [*places._group_actions, *options._group_actions]),
        *((group.title.capitalize(), group._group_actions) for group in further),
    ):
        if own := [action for action in members if action in actions]:
            yield title, own


def _name_shared(parser: Any, known: dict[tuple[str, str | None], str]) -> list[str]:
    lines = []
    for title in _SHARED:
        names = [_spell(a) for a in _actions(parser) if known.get((a.dest, a.help)) == title]
        if names:
            anchor = title.lower().replace(" ", "-")
            shown = ", ".join(f"`{name}`" for name in names)
            lines += [f"[{title}](#{anchor}): {shown}.", ""]
    return lines


def _spell(action: Action) -> str:
    spelled = [option for option in action.option_strings if "_" not in option]
    return spelled[0] if spelled else str(action.metavar or action.dest.upper())


def _table_of(actions: list[Action]) -> list[str]:
    lines = ["| flag | what it does | default |", "|---|---|---|"]
    for action in actions:
        value = action.default
        values = value if isinstance(value, (list, tuple)) else [value]
        default = "" if value in (None, False, [], "", "==SUPPRESS==") else f"`{' '.join(map(str, values))}`"
        lines.append(f"| `{_spell(action)}` | {_in_cell(action.help or '')} | {default} |")
    return lines


def _in_cell(text: str) -> str:
    text = " ".join(text.split()) % {} if "%%" in text else " ".join(text.split())
    return html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*")


def _as_text(text: str) -> str:
    return html.escape(text, quote=False).replace("&gt;=", "≥").replace("*.png", "\\*.png")


# Protocols


def write_protocols() -> str:
    """What each protocol is, in the words of the file that holds it."""
    from synco_hub.protocols import EVALUATORS, TRAINED

    homes = {f"evaluate {name}": row.function.partition(":")[0] for name, row in EVALUATORS.items()}
    homes |= {name: f"trainers.{name.replace('-', '_')}" for name in TRAINED}
    lines = [
        "# How protocols are defined",
        "",
        "Made from the files that hold them. A frozen model goes in, a [result](reference-results.md) with its "
        "settings comes out; what a number of a paper is beside it was reported there, not measured here.",
        "",
    ]
    for command, home in homes.items():
        anchor = f"synco-hub-{command.replace(' ', '-')}"
        lines += [
            *(f"## {command}", "", *_as_paragraphs(importlib.import_module(home).__doc__ or "")),
            *(f"[Flags](reference-commands.md#{anchor}). Defined in `{home.replace('.', '/')}.py`.", ""),
        ]
    return "\n".join(lines)


def _as_paragraphs(text: str) -> list[str]:
    """A docstring's paragraphs; what is indented there is code here, too."""
    text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", inspect.cleandoc(text))
    return [line if line.startswith("    ") else _as_text(line) for line in text.splitlines()] + [""]


# The catalog


def write_catalog() -> str:
    """Data sets, checkpoints and recipes by the names that flags take."""
    from synco_hub.data.catalog.sets import CATALOG, format_catalog
    from synco_hub.data.segmentation import SEGMENTATION_SETS
    from synco_hub.zoo import ZOO
    from trainers.recipe import list_recipes

    differing = [f"- `{row.name}`: {_as_text(row.difference)}" for row in CATALOG.values() if row.difference]
    masked = [
        f"| `{name}` | `{row.dataset_id}` | {len(row.class_names)} | {row.counts[0]:,} | {row.counts[1]:,} |"
        for name, row in SEGMENTATION_SETS.items()
    ]
    models = [
        f"| `{row.name}` | {row.method} | {row.backbone} | {_as_text(row.how_to_obtain)} |" for row in ZOO.values()
    ]
    return "\n".join(
        [
            _ABOUT_DATA_SETS,
            format_catalog(CATALOG.values()),
            *("Where a copy differs from the original:", "", *differing, ""),
            *("## Data sets with masks", "", "For `synco-hub evaluate segmentation`.", ""),
            *("| `--dataset` | on the Hub | classes | train | test |", "|---|---|---|---|---|", *masked, ""),
            _ABOUT_CHECKPOINTS,
            *("| `--model` | method | backbone | how to get it |", "|---|---|---|---|", *models, ""),
            *("## Recipes", "", ", ".join(f"`{name}`" for name in list_recipes()) + ".", ""),
        ]
    )


_ABOUT_DATA_SETS = """# Catalog

Made from the tables that `--dataset`, `--model` and `--recipe` read.

## Data sets

Every name is read from the Hub, or with `--data-dir` from the files as their archives unpack; `synco-hub data verify
NAME` compares what is there with this table, `synco-hub data prepare` writes any source as parquet files that stream
well. Any image folder, parquet or webdataset folder and Hub id works besides.
"""
_ABOUT_CHECKPOINTS = """## Checkpoints

A directory of the name, an installed checkpoint and a Hub repository are looked for, in this order. Nothing is
published on the Hub yet.
"""


# Notebooks


def find_notebooks(docs: Path) -> list[Path]:
    """Those that become pages."""
    return sorted((docs / "notebooks").glob("*.ipynb"))


def write_notebook(notebook: dict[str, Any]) -> str:
    """A saved notebook as a page: its text, its code, and what the code printed and drew."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _write_cell(cell)) + "\n"


def _write_cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"]).strip()
    if not source:
        return
    if cell["cell_type"] == "markdown":
        yield source
    elif cell["cell_type"] == "code":
        # A cell of shell is shown as what a terminal takes.
        language, code = ("bash", source.partition("\n")[2]) if source.startswith("%%bash") else ("python", source)
        yield f"```{language}\n{code}\n```"
        for output in cell["outputs"]:
            data = output.get("data", {})
            caption = output.get("metadata", {}).get("alt") or "What the cell above drew"
            if "image/png" in data:
                png = "".join(data["image/png"]).replace("\n", "")
                yield f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{png}">'
            elif text := "".join(output.get("text") or data.get("text/plain", [])).rstrip():
                yield f"```text\n{text}\n```"
