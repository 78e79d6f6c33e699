"""Bytes of an upload become a picture or one clear sentence; large ones are refused before they are decoded."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms

from space_app import uploaded_image
from space_app.uploaded_image import LARGEST_UPLOAD_BYTES, decoded, image_input, read_upload


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
        decoded(data)


def test_a_large_picture_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(uploaded_image, "decode_rgb", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="64 megapixels"):
        decoded(encoded(Image.new("1", (9000, 9000)), "PNG"))


def test_unusual_pictures_become_upright_rgb():
    frames = [Image.new("P", (30, 20), index) for index in range(3)]
    frames[0].putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    first = decoded(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (first.mode, first.size, first.getpixel((0, 0))) == ("RGB", (30, 20), (255, 0, 0))
    cmyk = decoded(encoded(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(np.asarray(cmyk).mean(axis=(0, 1)) - (255, 0, 0)).max() < 8
    turned = Image.new("RGB", (30, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    assert decoded(encoded(turned, "JPEG", exif=exif)).size == (20, 30)
    deep = Image.fromarray(np.full((20, 30), 40_000, np.uint16))
    assert decoded(encoded(deep, "PNG")).getpixel((0, 0)) == (156, 156, 156)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decoded(encoded(Image.new("RGB", (9, 9), "red"), "PNG", icc_profile=profile)).getpixel((0, 0)) == (
        255,
        0,
        0,
    )
