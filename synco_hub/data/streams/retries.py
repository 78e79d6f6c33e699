"""Reading a shard through a connection that fails now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

Row = TypeVar("Row")

DEFAULT_RETRIES = 5
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
# Clients of the network whose errors are no OSError.
_NETWORK_PACKAGES = frozenset(
    {"aiohttp", "botocore", "fsspec", "gcsfs", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3"}
)

logger = logging.getLogger(__name__)


class StreamReadError(OSError):
    """A shard of a stream cannot be read on; what was read before is good.

    Attributes:
        shard: Name of the shard.
        row: Rows of it that were read.
    """

    def __init__(self, shard: str, row: int, reason: str) -> None:
        super().__init__(f"{shard} cannot be read beyond row {row} ({reason})")
        self.shard = shard
        self.row = row


def is_network_error(error: BaseException, on_disk: bool = False) -> bool:
    """Whether trying again may help."""
    if on_disk and type(error) is OSError and error.errno is None:
        return False
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return False
    return isinstance(error, OSError | EOFError) or type(error).__module__.split(".")[0] in _NETWORK_PACKAGES


def read_rows_with_retries(
    open_rows: Callable[[], Iterator[Row]],
    shard: str,
    retries: int = DEFAULT_RETRIES,
    wait: Callable[[float], object] = time.sleep,
    on_disk: bool = False,
) -> Iterator[Row]:
    """The rows of a shard; after a network error it is opened again and read on behind the last good row.

    Waits 1, 2, 4, … seconds, at most a minute, between attempts; a good row sets the count back.

    Args:
        open_rows: Opens the shard at its beginning.
        shard: Its name, for messages.
        retries: Attempts after the first; 0 gives up at once.
        wait: Takes seconds.
        on_disk: See `is_network_error`.
    """
    done = failures = 0
    while True:
        try:
            for row in islice(open_rows(), done, None):
                yield row
                done += 1
                failures = 0
            return
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if failures >= retries or not is_network_error(error, on_disk):
                raise StreamReadError(shard, done, reason) from error
            seconds = min(_FIRST_WAIT_SECONDS * 2**failures, _LONGEST_WAIT_SECONDS)
            failures += 1
            logger.warning("%s, row %d: %s; attempt %d of %d in %g s", shard, done, reason, failures, retries, seconds)
            wait(seconds)
