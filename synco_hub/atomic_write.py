"""Files and folders that are whole or absent: written beside their place under another name, then renamed onto it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` and rename it onto ``path`` once the block has ended well.

    Whoever reads ``path`` sees the old file or the new one, never a part of one, also when the process is killed.
    When the block raises, the temporary file is removed and ``path`` is as it was.
    """
    destination = Path(path)
    if destination.is_dir():
        raise ValueError(f"{str(destination)!r} is a folder, but a file is to be written: give the path of a file")
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f".{destination.stem}.{secrets.token_hex(4)}{destination.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            # Without this a power cut after the rename could leave an empty file under the final name.
            os.fsync(stream.fileno())
        os.replace(temporary, destination)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_filled(path: Path) -> None:
    """Refuse to write over what is there."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"{path} exists and is not an empty folder: choose another output, or remove it first.")


@contextmanager
def atomic_write_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` and rename it to `path` once the block has ended well."""
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
