"""Reads ahead in a thread, so that the next row is there when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

Row = TypeVar("Row")
OpenRows = Callable[[Callable[[float], object]], Iterator[Row]]

ROWS_AHEAD = 64
_LOOK_UP_SECONDS = 0.1


class ReadAhead(Generic[Row]):
    """Iterator over what a thread reads, at most `rows_ahead` rows behind it; errors come out where they arose.

    Args:
        open_rows: Called in the thread, with a function that waits so many seconds or until the reader is closed.
        rows_ahead: Rows that wait to be taken.
    """

    def __init__(self, open_rows: OpenRows[Row], rows_ahead: int = ROWS_AHEAD) -> None:
        self._waiting: Queue[tuple[Row | None, BaseException | None]] = Queue(rows_ahead)
        self._closed = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(open_rows,), name="stream-reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        if self._ended:
            raise StopIteration
        row, error = self._next_pair()
        if error is None:
            return row  # type: ignore[return-value]
        self._ended = True
        raise error

    def close(self) -> None:
        """End the thread; a read that is under way is waited for a moment only."""
        self._ended = True
        self._closed.set()
        # Garbage collection may close a reader in whatever thread it runs, also in the reader's own.
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=1.0)

    def _next_pair(self) -> tuple[Row | None, BaseException | None]:
        while True:
            try:
                return self._waiting.get(timeout=_LOOK_UP_SECONDS)
            except Empty:
                if not self._thread.is_alive() and self._waiting.empty():
                    return None, RuntimeError("the thread that reads the stream has ended without a word")

    def _read(self, open_rows: OpenRows[Row]) -> None:
        last: tuple[Row | None, BaseException | None] = (None, StopIteration())
        try:
            for row in open_rows(self._closed.wait):
                if not self._hand_over((row, None)):
                    return
        except BaseException as error:
            last = (None, error)
        self._hand_over(last)

    def _hand_over(self, pair: tuple[Row | None, BaseException | None]) -> bool:
        while not self._closed.is_set():
            try:
                self._waiting.put(pair, timeout=_LOOK_UP_SECONDS)
                return True
            except Full:
                continue
        return False
