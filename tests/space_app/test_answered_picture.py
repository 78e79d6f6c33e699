from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from space_app.answered_picture import answered_picture


def test_the_file_shows_the_picture(tmp_path):
    ramp = np.linspace(0, 1, 32)
    picture = np.stack([np.tile(ramp, (24, 1)), np.tile(ramp[:, None], (1, 32))[:24], np.full((24, 32), 0.5)], axis=-1)
    path = Path(answered_picture(picture, tmp_path))
    assert path.is_relative_to(tmp_path)
    with Image.open(path) as image:
        assert image.format == "WEBP"
        assert np.abs(np.asarray(image.convert("RGB")) / 255 - picture).mean() < 0.02


def test_equal_pictures_share_a_file_and_different_ones_do_not(tmp_path):
    generator = np.random.default_rng(0)
    one, other = generator.random((2, 16, 16, 3))
    assert answered_picture(one, tmp_path) == answered_picture(one.copy(), tmp_path)
    assert answered_picture(one, tmp_path) != answered_picture(other, tmp_path)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_a_reader_never_sees_a_part_while_the_same_picture_is_written_again(tmp_path):
    picture = np.random.default_rng(1).random((128, 128, 3))
    path = Path(answered_picture(picture, tmp_path))
    whole, stop, parts = path.read_bytes(), threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            answered_picture(picture, tmp_path)

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
    path = Path(answered_picture(picture, tmp_path))
    with path.open("rb") as download:
        first = download.read(10)
        assert answered_picture(picture, tmp_path) == str(path)
        assert first + download.read() == path.read_bytes()
