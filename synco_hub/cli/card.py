"""`synco-hub card DIR` writes the card of a checkpoint, `synco-hub card verify DIR` measures its numbers again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup


class _WriteUnlessVerify(TyperGroup):
    """Lets `card DIR` mean `card write DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["write", *args]
        return super().parse_args(ctx, args)


card = typer.Typer(cls=_WriteUnlessVerify, no_args_is_help=True)


@card.callback()
def root() -> None:
    """Write the card of a checkpoint (`card DIR`), or measure its numbers again (`card verify DIR`).

    Example: synco-hub card runs/first --licence apache-2.0
    """


@card.command("write")
def write(
    directory: Path = typer.Argument(help="Checkpoint directory."),
    licence: str | None = typer.Option(None, help="Licence of the weights, such as apache-2.0; kept for later calls."),
    facts: str | None = typer.Option(
        None, help="Zoo name whose facts hold for these weights, or a YAML file of them; kept for later calls."
    ),
    name: str | None = typer.Option(
        None, help="What the model is loaded by, organisation/name before publishing; default: the directory's name."
    ),
) -> None:
    """Write README.md and .eval_results anew from what lies in the directory.

    Example: synco-hub card runs/first --licence apache-2.0
    """
    # The client takes a second to import: only when the command runs, never for --help.
    from synco_hub.hub.card.model_card import CARD_FILE, refresh_card

    results = refresh_card(directory, name, facts, licence)
    print(f"wrote {directory / CARD_FILE} with {sum(len(result.metrics) for result in results)} measured numbers")


@card.command("verify")
def verify(
    directory: Path = typer.Argument(help="Checkpoint directory with a card and result files."),
    tolerance: float = typer.Option(0.3, min=0, help="Difference in percentage points that is no mismatch."),
    dataset: str | None = typer.Option(None, help="Folder of the images, where a result's own name does not lead."),
    data_dir: str | None = typer.Option(None, help="Folder of the original files, for data sets of the catalog."),
    batch_size: int = typer.Option(128, help="Images per forward."),
    num_workers: int = typer.Option(2, help="Processes that decode images."),
    device: str | None = typer.Option(None, help="cpu, cuda, …; default: the best there is."),
) -> None:
    """Compare the card with its result files, measure again what can be measured here, and compare that too.

    Exit code 1 where anything differs, or where nothing could be measured.

    Example: synco-hub card verify runs/first --tolerance 0.3
    """
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.cli.card_verification import verify_card
    from synco_hub.cli.evaluation_inputs import best_device
    from synco_hub.features import ExtractionSettings

    settings = ExtractionSettings(batch_size, num_workers, best_device(device))
    lines, problems = verify_card(directory, tolerance, dataset, data_dir, settings)
    for line in lines:
        print(f"  {line}")
    if problems:
        raise ValueError(f"the card of {directory} does not hold: {'; '.join(problems)}")
    print(f"the card of {directory} holds")
