"""Network errors are tried again behind the last good row; the rest ends at once."""

import errno
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest

from synco_hub.data.streams.retries import StreamReadError, is_network_error, read_rows_with_retries
from synco_hub.data.streams.source import StreamSource

sys.path.insert(0, str(Path(__file__).parent))
from stream_tables import parquet_folder, png


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
    assert list(read_rows_with_retries(Flaky([3, 3, 7, 9]), "s", 2, waits.append)) == list(range(10))
    # Row 3 failed twice in a row; a good row sets the count back.
    assert waits == [1, 2, 1, 1]


def test_attempts_are_limited_and_their_pauses_grow_to_a_minute():
    waits = []
    with pytest.raises(
        StreamReadError, match=r"shard-7 cannot be read beyond row 4 \(ConnectionResetError: gone\)"
    ) as caught:
        list(read_rows_with_retries(Flaky([4] * 99), "shard-7", 8, waits.append))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert (caught.value.shard, caught.value.row) == ("shard-7", 4)


@pytest.mark.parametrize(
    "error", [FileNotFoundError("x"), PermissionError("x"), ValueError("magic bytes"), KeyError("image")]
)
def test_what_no_new_attempt_can_mend_ends_at_once(error):
    rows = Flaky([2] * 9, error)
    with pytest.raises(StreamReadError, match="beyond row 2"):
        list(read_rows_with_retries(rows, "s", 5, lambda _: pytest.fail("waited")))
    assert rows.opened == 1


def test_errors_of_network_clients_are_known_without_importing_them():
    foreign = type("ClientPayloadError", (Exception,), {"__module__": "aiohttp.client_exceptions"})
    assert is_network_error(foreign("half"))
    assert is_network_error(TimeoutError())
    assert not is_network_error(type("Odd", (Exception,), {"__module__": "numpy"})())


def test_on_the_disk_damage_is_told_from_a_file_system_that_may_recover():
    corrupt = OSError("Corrupt snappy compressed data.")
    assert is_network_error(corrupt)
    assert not is_network_error(corrupt, on_disk=True)
    assert is_network_error(OSError(errno.ESTALE, "stale file handle"), on_disk=True)
    assert is_network_error(ConnectionResetError("gone"), on_disk=True)


class DroppingServer(ThreadingHTTPServer):
    """Serves files in ranges and drops the connection in the middle of answers while it is told to."""

    folder: Path
    drop = 0
    dropped = 0


class DroppingHandler(BaseHTTPRequestHandler):
    server: DroppingServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Silent."""

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        data = (self.server.folder / self.path.lstrip("/")).read_bytes()
        start, end = 0, len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or len(data) - 1) + 1, len(data))
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        if not with_body:
            return
        if self.server.drop > 0:
            self.server.drop -= 1
            self.server.dropped += 1
            self.wfile.write(data[start : (start + end) // 2])
            self.close_connection = True
            return
        self.wfile.write(data[start:end])


def test_rows_over_http_survive_dropped_connections_and_name_the_shard_when_they_do_not(tmp_path, monkeypatch):
    parquet_folder(tmp_path, [12])
    server = DroppingServer(("127.0.0.1", 0), DroppingHandler)
    server.folder = tmp_path
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # The library's own attempts would take minutes.
    monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 1)
    monkeypatch.setattr(datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0)
    url = f"http://127.0.0.1:{server.server_port}/train-00000-of-00001.parquet"
    try:
        table = datasets.load_dataset(
            "parquet", data_files=url, split="train", streaming=True, cache_dir=str(tmp_path / "cache")
        ).cast_column("image", datasets.Image(decode=False))
        source = StreamSource((table,), "image", ("far.parquet",), (None,), "far", 12, "split train")
        server.drop = 2
        rows = read_rows_with_retries(lambda: source.cells(0), "far.parquet", 5, lambda _: None)
        assert [cell["bytes"] for cell in rows] == [png(0, row) for row in range(12)]
        assert server.dropped == 2
        server.drop = 10**6
        with pytest.raises(StreamReadError, match=r"far\.parquet cannot be read beyond row 0"):
            list(read_rows_with_retries(lambda: source.cells(0), "far.parquet", 2, lambda _: None))
    finally:
        server.shutdown()
        server.server_close()
