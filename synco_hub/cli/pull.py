"""`synco-hub pull`: a checkpoint from the Hub, checked and installed under its short name."""

from __future__ import annotations

import typer


def pull(
    name: str = typer.Argument(help="Short name of the zoo, or organisation/name on the Hub."),
    revision: str | None = typer.Option(None, help="Branch, tag or commit; default: the newest."),
    repo: str | None = typer.Option(
        None, "--from", metavar="ORG/NAME", help="Repository to take a short name from, one that you trust."
    ),
) -> None:
    """Download a checkpoint, compare every file with the Hub's checksums, and install it whole or not at all.

    Example: synco-hub pull synco-v2-deit-s --from ORGANISATION/synco-v2-deit-s --revision main
    """
    # The client takes a second to import: only when the command runs, never for --help.
    from synco_hub.hub.pull import pull as pull_checkpoint

    pulled = pull_checkpoint(name, repo, revision)
    print(f"installed {pulled.name} ({pulled.num_bytes / 1e6:.1f} MB) from {pulled.repo_id} at {pulled.commit}")
    print(f"  in {pulled.directory}; pin it with --revision {pulled.commit}")
    print(f'  AutoModel.from_pretrained("{pulled.name}") after `import synco_hub`')
