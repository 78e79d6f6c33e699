"""Bytes of an upload become a picture or one clear sentence; large ones are refused before they are decoded.

Answers are whole whenever somebody reads them, old files go, and nothing that visitors do at the same time stops that.
"""

import io
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms

from space_app import uploads
from space_app.uploads import (
    EXAMPLE_SIDE,
    LARGEST_UPLOAD_BYTES,
    decode_upload,
    delete_expired,
    draw_examples,
    image_input,
    read_upload,
    save_answer,
    start_deleting,
)


def encoded(image: Image.Image, file_format: str, **settings) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **settings)
    return stream.getvalue()


def test_uploads_are_read_within_the_limit(tmp_path):
    path = tmp_path / "upload"
    path.write_bytes(b"bytes")
    assert read_upload(str(path)) == b"bytes"
    with path.open("wb") as stream:
        stream.truncate(LARGEST_UPLOAD_BYTES)
    assert len(read_upload(str(path))) == LARGEST_UPLOAD_BYTES
    with path.open("wb") as stream:
        stream.truncate(LARGEST_UPLOAD_BYTES + 2**19)
    with pytest.raises(ValueError, match=r"20\.5 MB, the limit is 20 MB"):
        read_upload(str(path))
    path.unlink()
    with pytest.raises(ValueError, match="deleted meanwhile"):
        read_upload(str(path))
    with pytest.raises(ValueError, match="No picture yet"):
        read_upload(None)


def test_the_input_hands_over_the_path_alone():
    component = image_input(label="x")
    assert component.preprocess(None) is None
    assert component.preprocess(SimpleNamespace(path="/a/b.png")) == "/a/b.png"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"plain words", "no picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that can be read"),
        (encoded(Image.new("RGB", (64, 64)), "PNG")[:-20], "no picture that can be read"),
        (encoded(Image.new("1", (10_000, 10_000)), "PNG"), "10000x10000 pixels, the limit is 64 megapixels"),
        (encoded(Image.new("1", (20_000, 10_000)), "PNG"), "decompression bomb"),
    ],
)
def test_what_is_no_picture_is_said(data, message):
    with pytest.raises(ValueError, match=message):
        decode_upload(data)


def test_a_large_picture_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(uploads, "decode_rgb", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="64 megapixels"):
        decode_upload(encoded(Image.new("1", (9000, 9000)), "PNG"))


def test_unusual_pictures_become_upright_rgb():
    frames = [Image.new("P", (30, 20), index) for index in range(3)]
    frames[0].putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    first = decode_upload(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (first.mode, first.size, first.getpixel((0, 0))) == ("RGB", (30, 20), (255, 0, 0))
    cmyk = decode_upload(encoded(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(np.asarray(cmyk).mean(axis=(0, 1)) - (255, 0, 0)).max() < 8
    turned = Image.new("RGB", (30, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    assert decode_upload(encoded(turned, "JPEG", exif=exif)).size == (20, 30)
    deep = Image.fromarray(np.full((20, 30), 40_000, np.uint16))
    assert decode_upload(encoded(deep, "PNG")).getpixel((0, 0)) == (156, 156, 156)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode_upload(encoded(Image.new("RGB", (9, 9), "red"), "PNG", icc_profile=profile)).getpixel((0, 0)) == (
        255,
        0,
        0,
    )


def test_examples_are_different_pictures_and_the_same_each_time(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    drawn = []
    for folder in folders:
        folder.mkdir()
        drawn.append(draw_examples(folder))
    first, again = ({name: np.asarray(Image.open(path)) for name, path in each.items()} for each in drawn)
    assert len(first) == 10
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert all(picture.shape == (EXAMPLE_SIDE, EXAMPLE_SIDE, 3) for picture in first.values())
    assert len({picture.tobytes() for picture in first.values()}) == 10
    assert {path.parent for path in drawn[0].values()} == {folders[0]}


def test_the_file_shows_the_picture(tmp_path):
    ramp = np.linspace(0, 1, 32)
    picture = np.stack([np.tile(ramp, (24, 1)), np.tile(ramp[:, None], (1, 32))[:24], np.full((24, 32), 0.5)], axis=-1)
    path = Path(save_answer(picture, tmp_path))
    assert path.is_relative_to(tmp_path)
    with Image.open(path) as image:
        assert image.format == "WEBP"
        assert np.abs(np.asarray(image.convert("RGB")) / 255 - picture).mean() < 0.02


def test_equal_pictures_share_a_file_and_different_ones_do_not(tmp_path):
    generator = np.random.default_rng(0)
    one, other = generator.random((2, 16, 16, 3))
    assert save_answer(one, tmp_path) == save_answer(one.copy(), tmp_path)
    assert save_answer(one, tmp_path) != save_answer(other, tmp_path)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_a_reader_never_sees_a_part_while_the_same_picture_is_written_again(tmp_path):
    picture = np.random.default_rng(1).random((128, 128, 3))
    path = Path(save_answer(picture, tmp_path))
    whole, stop, parts = path.read_bytes(), threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            save_answer(picture, tmp_path)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(2000):
        content = path.read_bytes()
        if content != whole:
            parts.append(len(content))
    stop.set()
    writer.join()
    assert parts == []
    Image.open(io.BytesIO(whole)).verify()


def test_an_open_download_keeps_its_content(tmp_path):
    picture = np.random.default_rng(2).random((8, 8, 3))
    path = Path(save_answer(picture, tmp_path))
    with path.open("rb") as download:
        first = download.read(10)
        assert save_answer(picture, tmp_path) == str(path)
        assert first + download.read() == path.read_bytes()


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
