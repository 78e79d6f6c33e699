"""Files and folders that are whole or absent: written beside their place under another name, then renamed onto it.

They get the mode that the umask gives to any new file, whatever wrote them: some libraries write a temporary file of
mode 0600 and rename it, so that weights could not be read by those who can read everything beside them. What replaces
a file or an empty folder keeps its mode, as writing into it would: whoever made it private, or shared it, meant it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        replaced = _read_mode(destination)
        _set_mode(temporary, _read_new_file_mode(destination.parent) if replaced is None else replaced)
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
        set_usual_modes(temporary)
        if (replaced := _read_mode(path)) is not None:
            _set_mode(temporary, replaced)
        # Onto an empty folder this is one step; whoever filled it meanwhile keeps what he has.
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def usual_modes(directory: Path) -> Iterator[None]:
    """Let a library write files into a folder: what it makes gets the usual mode, what it replaces keeps its own.

    Nothing else in the folder is touched: it may be a place where others keep files too.
    """
    before = _stat_files(directory)
    yield
    written = {path: found for path, found in _stat_files(directory).items() if before.get(path) != found}
    usual = _read_new_file_mode(directory) if written else 0
    for path in written:
        _set_mode(path, stat.S_IMODE(before[path][0]) if path in before else usual)


def set_usual_modes(directory: Path) -> None:
    """Give every file in and below a folder of our own the mode of a new file."""
    usual = _read_new_file_mode(directory)
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            _set_mode(path, usual)


def _stat_files(directory: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode, inode and time of change of each file, of which one is another when the file was written."""
    files = [path for path in directory.glob("*") if path.is_file() and not path.is_symlink()]
    return {path: (found.st_mode, found.st_ino, found.st_mtime_ns) for path in files for found in [path.stat()]}


def _read_mode(path: Path) -> int | None:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


def _read_new_file_mode(folder: Path) -> int:
    """The mode of a file that is made there: the umask itself can only be read by changing it for every thread."""
    sample = folder / f".mode.{secrets.token_hex(4)}"
    descriptor = os.open(sample, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        sample.unlink()


def _set_mode(path: Path, mode: int) -> None:
    """Change a mode where it is another; where the file system has none, the file counts for more than its mode."""
    if _read_mode(path) != mode:
        with suppress(OSError):
            path.chmod(mode)
