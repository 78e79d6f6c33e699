"""Work that the first process does for all, which stop together if it fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from accelerate.utils import broadcast_object_list

Result = TypeVar("Result")


def by_the_first(work: Callable[[], Result], process_index: int, num_processes: int) -> Result | None:
    """What one process does for all; where it fails, the others end without a word of their own.

    Args:
        work: What the first process does.
        process_index: Rank of this one over all machines.
        num_processes: How many there are; with several, all must come here.

    Returns:
        The result on the first process, None on the others.

    Raises:
        SystemExit: On the other processes, if the first one failed.
        Exception: On the first process, what `work` raises.
    """
    result, failure = None, None
    if process_index == 0:
        try:
            result = work()
        except Exception as error:
            failure = error
    failed = [failure is not None]
    if num_processes > 1:
        broadcast_object_list(failed)
    if failure is not None:
        raise failure
    if failed[0]:
        sys.exit(1)
    return result
