"""`synco-hub publish-space`: the page as a Space of one's own, or as a folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

from synco_hub.cli.publish import confirm, show_files


def publish_space(
    repo_id: str | None = typer.Option(None, help="organisation/name of the Space; created if it is not there."),
    output: Path | None = typer.Option(None, help="Folder to stage it in, and to keep; must be empty."),
    private: bool = typer.Option(False, "--private", help="Create it as a private Space."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Stage and show, send nothing."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Stage the page with its header, third-party requirements and this project's packages, and publish it.

    Example: synco-hub publish-space --dry-run --output staged-space
    """
    # torch takes seconds to import: only when the command runs, never for --help.
    from synco_hub.hub.publication.publish import publish
    from synco_hub.hub.publication.space import stage_space

    if repo_id is None and not (dry_run and output is not None):
        raise ValueError("give --repo-id ORGANISATION/NAME to publish, or --dry-run --output DIR to stage only.")
    with tempfile.TemporaryDirectory(prefix="synco-space-") as temporary:
        plan = stage_space(output or Path(temporary) / "space")
        show_files(plan.sizes, f"the Space {repo_id}" if repo_id else str(output))
        if dry_run or repo_id is None:
            where = f"; staged in {output}: `pip install -r requirements.txt`, then `python app.py`" if output else ""
            print(f"dry run: nothing was sent{where}")
            return
        confirm(repo_id, yes)
        published = publish(plan, repo_id, private, kind="space")
    print(f"published the Space {published.repo_id} at {published.commit}\n{published.url}")
    print("name the checkpoints it offers in its variable SYNCO_SPACE_MODELS (Hub ids separated by commas)")
