"""Directories that are whole or absent: filled beside their place under another name, then renamed onto it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def refuse_filled(path: Path) -> None:
    """Refuse to write over what is there.

    Raises:
        ValueError: If `path` is a file or a folder that is not empty.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"{path} exists and is not an empty folder: choose another output, or remove it first.")


@contextmanager
def directory_written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` and rename it to `path` once the block has ended well.

    Args:
        path: The folder to write; it may exist if it is empty.

    Yields:
        The folder to write into.

    Raises:
        ValueError: If `path` is a file or a folder that is not empty.
    """
    path = path.absolute()
    refuse_filled(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        # Onto an empty folder this is one step; whoever filled it meanwhile keeps what he has.
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
