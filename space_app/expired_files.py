"""Visitors' pictures and the answers to them, deleted when they are old.

gradio's own `delete_cache` walks through sets that visitors' uploads grow at the same moment, and its task ends for
good with "Set changed size during iteration" (seen in gradio 6.31); here the folder itself is the list.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from pathlib import Path

logger = logging.getLogger(__name__)


def delete_expired(folder: Path, seconds: float, kept: Collection[Path] = ()) -> int:
    """Delete the files below a folder that were last written or handed out too long ago.

    Args:
        folder: The app's uploads and answers.
        seconds: Age from which a file is deleted.
        kept: Files that stay.

    Returns:
        How many were deleted.
    """
    oldest, deleted = time.time() - seconds, 0
    for path in folder.rglob("*"):
        try:
            # The time of the last change of the entry: a file that is handed out again is touched.
            if path.is_dir() or path in kept or path.lstat().st_ctime > oldest:
                continue
            path.unlink()
            deleted += 1
        except FileNotFoundError:
            continue  # renamed or deleted meanwhile
        except OSError:
            logger.exception("could not delete %s", path.name)
    return deleted


def start_deleting(folder: Path, seconds: float, every: float, kept: Collection[Path] = ()) -> threading.Thread:
    """Delete expired files again and again, in a thread that ends with the folder or the process.

    Args:
        folder: See :func:`delete_expired`.
        seconds: Age from which a file is deleted.
        every: Seconds between two looks.
        kept: Files that stay.

    Returns:
        The running thread.
    """
    kept = frozenset(kept)

    def sweep() -> None:
        while folder.is_dir():
            try:
                delete_expired(folder, seconds, kept)
            except OSError:
                logger.exception("could not look through the uploads")  # the next look may succeed
            time.sleep(every)

    thread = threading.Thread(target=sweep, name="expired-files", daemon=True)
    thread.start()
    return thread
