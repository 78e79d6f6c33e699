"""`synco-hub`: one command for each thing a user wants; each has an example in its help."""

from __future__ import annotations

import os
import sys

import typer

from synco_hub.cli.ablate import ablate
from synco_hub.cli.attention import attention
from synco_hub.cli.card import card
from synco_hub.cli.convert import convert
from synco_hub.cli.data import data
from synco_hub.cli.demo import demo
from synco_hub.cli.evaluate import evaluate
from synco_hub.cli.export import export
from synco_hub.cli.fine_tune import fine_tune
from synco_hub.cli.linear_probe import linear_probe
from synco_hub.cli.list_models import list_models
from synco_hub.cli.pretrain import pretrain
from synco_hub.cli.publish import publish
from synco_hub.cli.publish_space import publish_space
from synco_hub.cli.pull import pull
from synco_hub.cli.results import results
from synco_hub.cli.robustness_demo import robustness_demo
from synco_hub.cli.space import space
from synco_hub.errors import DEBUG_VARIABLE, report_errors
from synco_hub.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="SynCo-v2, MoBY and BYOL vision transformers: pretrain, load, measure, look.",
    epilog="Any command takes --debug, which shows the traceback of an error.",
)
app.command("demo")(demo)
app.command("list")(list_models)
app.command("pull")(pull)
app.command("publish")(publish)
app.command("publish-space")(publish_space)
app.add_typer(card, name="card")
app.command(
    "pretrain",
    # The trainer's own parser reads the flags and prints the help; nothing is interpreted here.
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)(pretrain)
app.command(
    "linear-probe",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)(linear_probe)
app.command(
    "fine-tune",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)(fine_tune)
app.command("ablate", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(ablate)
app.add_typer(data, name="data")
app.add_typer(evaluate, name="evaluate")
app.add_typer(results, name="results")
app.command("attention")(attention)
app.command("convert")(convert)
app.command("export")(export)
app.command("robustness-demo")(robustness_demo)
app.command("space")(space)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """SynCo-v2, MoBY and BYOL vision transformers: pretrain, load, measure, look."""


def main() -> None:
    """Entry point of the console script."""
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ[DEBUG_VARIABLE] = "1"
    with report_errors():
        app()


if __name__ == "__main__":
    main()
