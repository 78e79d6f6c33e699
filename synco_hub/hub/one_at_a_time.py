"""Work that two processes on one computer must not do at once: the second waits until the first is done or gone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from synco_hub.zoo import home_directory

_logger = logging.getLogger(__name__)


@contextmanager
def one_at_a_time(work: str) -> Iterator[None]:
    """Run the block while no other process or thread runs one of the same name, for the same home of the zoo.

    The system itself lets go of the lock of a process that dies, however it does, so nobody waits for the dead. The
    empty lock file stays: removing it would let one process hold a file that a second no longer finds.

    Args:
        work: What is done, such as `pull-organisation--name@commit`; it becomes the name of a file.

    Raises:
        OSError: If the home of the zoo cannot be written.
    """
    folder = home_directory() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    # Writable for the group, as a home that several people share needs it.
    lock = FileLock(folder / f"{work}.lock", mode=0o664)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _logger.warning("another process is at %s: waiting until it is done", work)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
