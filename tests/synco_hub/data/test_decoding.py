"""Images of every mode and every damage."""

import contextlib
import io
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from synco_hub.data.decoding import UnreadableImageError, decode_pixels, decode_rgb, opencv


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def random_rgb(seed: int, width: int = 13, height: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("format_name", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_lossless_rgb_comes_back_exactly(format_name: str) -> None:
    pixels = random_rgb(0)
    image = decode_rgb(
        encoded(Image.fromarray(pixels), format_name, **({"lossless": True} if "W" in format_name else {}))
    )
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels)


def test_path_and_bytes_agree(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(random_rgb(1, 40, 30)), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    from_bytes = np.asarray(decode_rgb(data))
    assert np.array_equal(from_bytes, np.asarray(decode_rgb(tmp_path / "a.jpg")))
    assert np.array_equal(from_bytes, np.asarray(decode_rgb(str(tmp_path / "a.jpg"))))


def test_16_bit_gray_is_scaled_not_clipped() -> None:
    values = np.random.default_rng(2).integers(0, 65536, (9, 11), dtype=np.uint16)
    for format_name in ("PNG", "TIFF"):
        decoded = np.asarray(decode_rgb(encoded(Image.fromarray(values), format_name))).astype(int)
        assert np.abs(decoded - values[..., None] / 257).max() <= 0.5


def test_16_bit_colour_keeps_its_high_byte() -> None:
    values = np.random.default_rng(3).integers(0, 65536, (3, 4, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.abs(np.asarray(decode_rgb(png)).astype(int) - values / 257).max() <= 1


def test_float_and_32_bit_images_span_the_gray_range() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for values in (ramp, ramp * 255, ramp * 5000):
        decoded = np.asarray(decode_rgb(encoded(Image.fromarray(values), "TIFF")))
        assert np.abs(decoded[..., 0] - ramp * 255).max() <= 0.5 + 1e-3
    integers = np.round(ramp * 65535).astype(np.int32)
    decoded = np.asarray(decode_rgb(encoded(Image.fromarray(integers), "TIFF")))
    assert np.abs(decoded[..., 1] - ramp * 255).max() <= 0.6
    holes = ramp.copy()
    holes[0, 0] = np.nan
    assert np.asarray(decode_rgb(encoded(Image.fromarray(holes), "TIFF")))[0, 0].tolist() == [0, 0, 0]


def test_transparency_shows_white() -> None:
    generator = np.random.default_rng(4)
    rgba = generator.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    decoded = np.asarray(decode_rgb(encoded(Image.fromarray(rgba), "PNG")))
    assert np.abs(decoded - expected).max() <= 1

    gray_alpha = Image.fromarray(rgba[..., :2], mode="LA")
    expected = rgba[..., :1] * (rgba[..., 1:2] / 255) + 255 * (1 - rgba[..., 1:2] / 255)
    assert np.abs(np.asarray(decode_rgb(encoded(gray_alpha, "PNG"))) - expected).max() <= 1


def test_a_transparent_colour_of_rgb_gray_and_palette_files_shows_white() -> None:
    colour = Image.new("RGB", (2, 1), (10, 20, 30))
    colour.putpixel((1, 0), (1, 2, 3))
    data = encoded(colour, "PNG", transparency=(10, 20, 30))
    assert np.asarray(decode_rgb(data)).tolist() == [[[255, 255, 255], [1, 2, 3]]]
    gray = Image.new("L", (2, 1), 40)
    gray.putpixel((1, 0), 50)
    data = encoded(gray, "PNG", transparency=40)
    assert np.asarray(decode_rgb(data)).tolist() == [[[255] * 3, [50] * 3]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([9, 8, 7, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    for format_name in ("PNG", "GIF"):
        data = encoded(palette, format_name, transparency=0)
        assert np.asarray(decode_rgb(data)).tolist() == [[[255] * 3, [200, 100, 50]]]
        data = encoded(palette, format_name)
        assert np.asarray(decode_rgb(data)).tolist() == [[[9, 8, 7], [200, 100, 50]]]


def test_cmyk_one_bit_and_gray() -> None:
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # full cyan
    decoded = np.asarray(decode_rgb(encoded(cmyk, "JPEG", quality=100)))
    assert np.abs(decoded.astype(int) - [0, 255, 255]).max() <= 3
    bits = np.random.default_rng(5).integers(0, 2, (5, 9)).astype(bool)
    decoded = np.asarray(decode_rgb(encoded(Image.fromarray(bits), "PNG")))
    assert np.array_equal(decoded, np.repeat(bits[..., None], 3, axis=2) * np.uint8(255))
    gray = np.random.default_rng(6).integers(0, 256, (5, 9), dtype=np.uint8)
    assert np.array_equal(np.asarray(decode_rgb(encoded(Image.fromarray(gray), "PNG"))), np.stack([gray] * 3, axis=-1))


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode_rgb(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_the_orientation_of_the_camera_is_applied(orientation: int, upright: object) -> None:
    pixels = random_rgb(7)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode_rgb(data)), upright(pixels))  # type: ignore[operator]


def test_damaged_camera_data_costs_no_image() -> None:
    pixels = random_rgb(8)
    data = encoded(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x99broken")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.asarray(decode_rgb(data)), pixels)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_truncation_anywhere_is_an_error_or_the_whole_image(format_name: str) -> None:
    data = encoded(Image.fromarray(random_rgb(9, 64, 64)), format_name)
    whole = np.asarray(decode_rgb(data))
    for cut in np.random.default_rng(10).integers(1, len(data) - 16, 12):
        with contextlib.suppress(UnreadableImageError):
            assert np.array_equal(np.asarray(decode_rgb(data[:cut])), whole)
    with pytest.raises(UnreadableImageError):
        decode_rgb(data[: len(data) // 2])


def test_random_damage_never_escapes_as_another_error() -> None:
    generator = np.random.default_rng(11)
    for format_name in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
        clean = encoded(Image.fromarray(random_rgb(12, 24, 24)), format_name)
        for _ in range(60):
            damaged = bytearray(clean)
            for place in generator.integers(0, len(damaged), 4):
                damaged[place] = generator.integers(0, 256)
            with contextlib.suppress(UnreadableImageError):
                assert decode_rgb(bytes(damaged)).mode == "RGB"


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty"), (b"hello, I am no image", "format is unknown"), (b"\x89PNG\r\n\x1a\n", "")]
)
def test_the_message_names_file_and_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "holiday.png"
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=r"holiday\.png: not a readable image") as caught:
        decode_rgb(path)
    assert reason in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.jpg"):
        with pytest.raises(UnreadableImageError, match="directory"):
            decode_rgb(path)


def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("RGB", (100, 100)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_999)
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        decode_rgb(data, "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert decode_rgb(data).size == (100, 100)


def test_the_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError("a.jpg", "it is empty")))
    assert (error.name, error.reason) == ("a.jpg", "it is empty")
    assert "a.jpg" in str(error)
    assert "it is empty" in str(error)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_of_jpeg_files_are_those_of_the_image(
    tmp_path: Path, mode: str, subsampling: str, progressive: bool
) -> None:
    generator = np.random.default_rng(20)
    for width, height in ((64, 48), (33, 17), (1, 1)):
        noise = Image.fromarray(generator.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8))
        picture = noise.resize((width, height), Image.Resampling.BICUBIC).convert(mode)
        options = {"quality": 87, "subsampling": subsampling, "progressive": progressive}
        data = encoded(picture, "JPEG", **({} if mode == "CMYK" else options))
        (tmp_path / "a.jpg").write_bytes(data)
        for source in (data, tmp_path / "a.jpg", str(tmp_path / "a.jpg")):
            pixels = decode_pixels(source)
            assert np.array_equal(pixels, np.asarray(decode_rgb(data)))
            assert (pixels.dtype, pixels.flags.c_contiguous, pixels.flags.writeable) == (np.uint8, True, True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(random_rgb(21, 40, 24)), "JPEG", exif=exif)
    assert np.array_equal(decode_pixels(data), np.asarray(decode_rgb(data)))


@pytest.mark.parametrize("format_name", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_pixels_of_other_formats(format_name: str) -> None:
    data = encoded(Image.fromarray(random_rgb(22)), format_name)
    assert np.array_equal(decode_pixels(data), np.asarray(decode_rgb(data)))


def test_pixels_are_refused_where_the_image_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(random_rgb(23, 64, 64)), "JPEG")
    for cut in (3, 40, len(data) // 2, len(data) - 3):
        with pytest.raises(UnreadableImageError):
            decode_rgb(data[:cut])
        with pytest.raises(UnreadableImageError, match=r"cut\.jpg"):
            decode_pixels(data[:cut], "cut.jpg")
    with pytest.raises(UnreadableImageError, match=r"cut\.jpg"):
        decode_pixels(data[:20] + data[-2:], "cut.jpg")
    with pytest.raises(UnreadableImageError, match="directory"):
        decode_pixels(tmp_path / "nowhere.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        decode_pixels(data)


def test_random_damage_of_a_jpeg_file_is_judged_alike() -> None:
    generator = np.random.default_rng(24)
    noise = Image.fromarray(random_rgb(25, 12, 12)).resize((96, 96), Image.Resampling.BICUBIC)
    clean = encoded(noise, "JPEG", quality=90)
    refused = 0
    for number in range(300):
        damaged = bytearray(clean)
        for place in generator.integers(2, len(damaged) - 2, 1 + number % 3):
            damaged[place] = generator.integers(0, 256)
        try:
            expected = np.asarray(decode_rgb(bytes(damaged)))
        except UnreadableImageError:
            refused += 1
            with pytest.raises(UnreadableImageError):
                decode_pixels(bytes(damaged))
        else:
            assert np.array_equal(decode_pixels(bytes(damaged)), expected)
    assert 10 < refused < 290


def threads_in_a_worker() -> int:
    return opencv().getNumThreads()


def test_one_thread_here_and_in_forked_processes() -> None:
    assert opencv() is cv2
    assert cv2.getNumThreads() == 1
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(threads_in_a_worker) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b" \n<!DOCTYPE html><html>", "a web page"),
        (b"<html><body>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"PK\x03\x04....", "a zip archive"),
        (b"%PDF-1.7", "a PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "pip install pillow-heif"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "pip install pillow-jxl-plugin"),
    ],
)
def test_what_a_file_is_that_is_no_image(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        decode_rgb(data)
    assert reason in caught.value.reason


def test_the_pixel_limit_is_named_and_can_be_raised(tmp_path: Path) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "big.png")
    code = f"""
from PIL import Image
Image.MAX_IMAGE_PIXELS = 4_999
from synco_hub.data import decode_rgb
from synco_hub.data.decoding import decode_pixels
try:
    print(decode_pixels({str(tmp_path / "big.png")!r}).shape)
except ValueError as error:
    print(error)
"""

    def run(**environment: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
        ).stdout

    assert "more than 9,998 pixels" in run()
    assert "set the environment variable SYNCO_HUB_MAX_PIXELS to a higher number" in run()
    assert "(100, 100, 3)" in run(SYNCO_HUB_MAX_PIXELS="10000")
    assert "more than 5,000 pixels" in run(SYNCO_HUB_MAX_PIXELS="5000")
    assert "SYNCO_HUB_MAX_PIXELS=many is no number of pixels" in run(SYNCO_HUB_MAX_PIXELS="many")
