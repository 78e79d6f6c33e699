"""Network errors are tried again behind the last good row; the rest ends at once."""

import pytest

from synco_hub.data.stream_retries import StreamReadError, is_network_error, rows_with_retries


class Flaky:
    """Rows 0 to 9; opening number n breaks before row `breaks[n]`."""

    def __init__(self, breaks, error=None):
        self.breaks, self.opened = list(breaks), 0
        self.error = error or ConnectionResetError("gone")

    def __call__(self):
        stop = self.breaks[self.opened] if self.opened < len(self.breaks) else None
        self.opened += 1
        for row in range(10):
            if row == stop:
                raise self.error
            yield row


def test_a_broken_connection_loses_and_repeats_nothing():
    waits = []
    assert list(rows_with_retries(Flaky([3, 3, 7, 9]), "s", 2, waits.append)) == list(range(10))
    # Row 3 failed twice in a row; a good row sets the count back.
    assert waits == [1, 2, 1, 1]


def test_attempts_are_limited_and_their_pauses_grow_to_a_minute():
    waits = []
    with pytest.raises(
        StreamReadError, match=r"shard-7 cannot be read beyond row 4 \(ConnectionResetError: gone\)"
    ) as caught:
        list(rows_with_retries(Flaky([4] * 99), "shard-7", 8, waits.append))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (caught.value.shard, caught.value.row) == ("shard-7", 4)


@pytest.mark.parametrize(
    "error", [FileNotFoundError("x"), PermissionError("x"), ValueError("magic bytes"), KeyError("image")]
)
def test_what_no_new_attempt_can_mend_ends_at_once(error):
    rows = Flaky([2] * 9, error)
    with pytest.raises(StreamReadError, match="beyond row 2"):
        list(rows_with_retries(rows, "s", 5, lambda _: pytest.fail("waited")))
    assert rows.opened == 1


def test_errors_of_network_clients_are_known_without_importing_them():
    foreign = type("ClientPayloadError", (Exception,), {"__module__": "aiohttp.client_exceptions"})
    assert is_network_error(foreign("half"))
    assert is_network_error(TimeoutError())
    assert not is_network_error(type("Odd", (Exception,), {"__module__": "numpy"})())
