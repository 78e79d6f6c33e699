"""A thread reads ahead: the same rows, the same errors, bounded, and gone when it is closed."""

import threading
import time

import pytest

from synco_hub.data.streams.reader import ReadAhead


def test_rows_come_in_order_and_the_end_is_the_end():
    reader = ReadAhead(lambda wait: iter(range(200)), rows_ahead=3)
    assert list(reader) == list(range(200))
    with pytest.raises(StopIteration):
        next(reader)


def test_an_error_comes_out_behind_the_rows_before_it():
    def rows(wait):
        yield 1
        raise ConnectionError("gone")

    reader = ReadAhead(rows)
    assert next(reader) == 1
    with pytest.raises(ConnectionError, match="gone"):
        next(reader)


def test_it_reads_no_further_ahead_than_told_and_stops_when_closed():
    read, before = [], threading.active_count()

    def rows(wait):
        for row in range(10_000):
            read.append(row)
            yield row

    reader = ReadAhead(rows, rows_ahead=5)
    assert next(reader) == 0
    deadline = time.monotonic() + 10
    while len(read) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(read) == 7  # one taken, five waiting, one in hand
    reader.close()
    assert threading.active_count() == before
    assert len(read) == 7
    assert list(reader) == []


def test_closing_ends_a_pause():
    paused = threading.Event()

    def rows(wait):
        paused.set()
        wait(3600)
        yield 1

    reader = ReadAhead(rows)
    assert paused.wait(10)
    reader.close()
    assert not reader._thread.is_alive()


def test_it_may_be_closed_in_its_own_thread():
    readers, failures = [], []
    started = threading.Event()

    def rows(wait):
        started.wait(10)
        try:
            readers[0].close()
        except RuntimeError as error:
            failures.append(error)
        yield 1

    readers.append(ReadAhead(rows))
    started.set()
    readers[0]._thread.join(10)
    assert failures == []
    assert list(readers[0]) == []
