import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from synco_hub.data.low_shot_lists import URL_VARIABLE, low_shot_list


def lines(count: int) -> bytes:
    return b"".join(b"n%08d_%d.JPEG\n" % (number % 1000, number) for number in range(count))


class Server(ThreadingHTTPServer):
    answers: dict[str, bytes]
    cut: bool = False
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.answers.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.server.cut else content)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.answers = {"/lists/1percent.txt": lines(12811), "/lists/10percent.txt": lines(128116)}
        running.asked = []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv(URL_VARIABLE, f"http://127.0.0.1:{running.server_address[1]}/lists/")
        yield running
        running.shutdown()


@pytest.mark.parametrize(("percent", "count"), [(1, 12811), (10, 128116)])
def test_downloaded_once_and_whole(percent: int, count: int, server: Server, tmp_path: Path):
    path = low_shot_list(percent, tmp_path)
    assert path.read_bytes() == lines(count)
    assert low_shot_list(percent, tmp_path) == path
    assert server.asked == [f"/lists/{percent}percent.txt"]


def test_a_cut_connection_leaves_nothing_and_the_next_attempt_works(server: Server, tmp_path: Path):
    server.cut = True
    with pytest.raises(ValueError, match=r"cannot be downloaded|bytes arrived"):
        low_shot_list(1, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    server.cut = False
    assert low_shot_list(1, tmp_path).is_file()


@pytest.mark.parametrize(
    "content", [lines(12810), lines(12812), lines(12810) * 2, b"<html>", lines(12810) + b"x.JPEG\n"]
)
def test_another_list_is_not_kept(content: bytes, server: Server, tmp_path: Path):
    server.answers["/lists/1percent.txt"] = content
    with pytest.raises(ValueError, match=r"the download: .* image names, where SimCLR's list of 1 % has 12811"):
        low_shot_list(1, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_cache_is_named(server: Server, tmp_path: Path):
    path = low_shot_list(1, tmp_path)
    path.write_bytes(lines(5))
    with pytest.raises(ValueError, match=r"1percent.txt: 5 image names.*remove it"):
        low_shot_list(1, tmp_path)


def test_nothing_there_and_no_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server.answers = {}
    with pytest.raises(ValueError, match=r"HTTPError.*--train-list"):
        low_shot_list(10, tmp_path)
    monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=rf"URLError.*{URL_VARIABLE}"):
        low_shot_list(10, tmp_path)
    with pytest.raises(ValueError, match="there are lists of 1 and 10 %"):
        low_shot_list(5, tmp_path)


@pytest.mark.network
@pytest.mark.parametrize("percent", [1, 10])
def test_the_published_lists(percent: int, tmp_path: Path):
    assert low_shot_list(percent, tmp_path).stat().st_size > 100_000
