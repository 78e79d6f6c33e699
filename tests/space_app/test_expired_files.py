"""Old files go, young ones and kept ones stay, and nothing that visitors do at the same time stops it."""

import threading
import time

from space_app.expired_files import delete_expired, start_deleting


def test_only_what_is_old_and_not_kept_is_deleted(tmp_path, monkeypatch):
    kept, deep = tmp_path / "example.png", tmp_path / "a" / "b" / "upload.png"
    deep.parent.mkdir(parents=True)
    for path in (kept, deep, tmp_path / "c"):
        path.write_bytes(b"x")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_bytes(b"x")
    (tmp_path / "link").symlink_to(outside)
    assert delete_expired(tmp_path, 60, {kept}) == 0
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert delete_expired(tmp_path, 60, {kept}) == 3
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [kept]
    assert outside.read_bytes() == b"x"  # of a link only the link goes
    assert delete_expired(tmp_path / "nowhere", 0) == 0


def test_a_file_that_is_handed_out_again_is_young_again(tmp_path):
    path = tmp_path / "answer.webp"
    path.write_bytes(b"x")
    time.sleep(0.3)
    path.touch()
    assert delete_expired(tmp_path, 0.2) == 0
    time.sleep(0.3)
    assert delete_expired(tmp_path, 0.2) == 1


def test_deleting_goes_on_while_visitors_write_and_ends_with_the_folder(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    thread = start_deleting(folder, seconds=0, every=0.001)
    written = 0

    def visit(visitor: int) -> None:
        nonlocal written
        for number in range(150):
            place = folder / f"{visitor}-{number}"
            place.mkdir()
            (place / "upload").write_bytes(b"x")
            written += 1

    visitors = [threading.Thread(target=visit, args=(visitor,)) for visitor in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert written > 0
    deadline = time.monotonic() + 30
    while any(path.is_file() for path in folder.rglob("*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(path.is_file() for path in folder.rglob("*"))
    assert thread.is_alive()
    folder.rename(tmp_path / "gone")
    thread.join(timeout=30)
    assert not thread.is_alive()
