"""`synco-hub publish`: a checkpoint to the Hub, checked, shown and sent as one commit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer


def publish(
    directory: Path = typer.Argument(help="Checkpoint directory: of a run, a conversion, or an installed one."),
    repo_id: str = typer.Option(..., help="organisation/name on the Hub; created if it is not there."),
    private: bool = typer.Option(False, "--private", help="Create it as a private repository."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Check and show, send nothing."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Publish weights, image processor, model code, results and card as one commit.

    The text of README.md must be what `synco-hub card DIRECTORY` writes from facts and result files; words of your own
    go into a facts file (`synco-hub card DIRECTORY --facts FILE.yaml`). The weights must be those of config.json.

    Example: synco-hub publish runs/first --repo-id ORGANISATION/NAME --private --dry-run
    """
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.hub.publication.publish import publish as send
    from synco_hub.hub.publication.publish import upload_plan

    plan = upload_plan(directory, repo_id)
    show_files(plan.sizes, f"{'private ' if private else ''}{repo_id}")
    if plan.left:
        print(f"stays here: {', '.join(plan.left)}")
    if dry_run:
        print("dry run: nothing was sent")
        return
    confirm(repo_id, yes)
    published = send(plan, repo_id, private)
    if published.removed:
        print(f"gone from the new revision: {', '.join(published.removed)}")
    print(f"published {published.repo_id} at {published.commit}\n{published.url}")


def show_files(sizes: Mapping[str, int], target: str) -> None:
    """Print what would be sent.

    Args:
        sizes: Path in the repository to bytes.
        target: Where it would go.
    """
    print(f"to {target}, in one commit:")
    for path, size in sizes.items():
        print(f"  {size:>12,}  {path}")
    print(f"  {sum(sizes.values()):>12,}  bytes in {len(sizes)} files")


def confirm(repo_id: str, yes: bool) -> None:
    """Ask, unless that was answered beforehand.

    Raises:
        ValueError: If the answer is no, or nobody can be asked.
    """
    if yes:
        return
    try:
        agreed = typer.confirm(f"Publish to {repo_id}?")
    except typer.Abort:
        raise ValueError("nobody answered whether to publish: add --yes to go on without asking.") from None
    if not agreed:
        raise ValueError("not published: the answer was no.")
