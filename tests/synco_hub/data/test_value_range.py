"""Images of more than 8 bits on every way to their pixels, compared with the formula."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synco_hub.data import DatasetChoice, load_dataset, open_stream
from synco_hub.data.decoding import decode_pixels, decode_rgb
from synco_hub.data.image_folder import load_image_folder
from synco_hub.data.loading import load_recorded_images
from synco_hub.data.streams.images import StreamRow
from synco_hub.data.value_range import ValueRange, choose_range

RAMP = np.linspace(0, 1, 256).reshape(16, 16)


def tiff(values: np.ndarray, tags: dict[int, Any] | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=tags or {})
    return buffer.getvalue()


def png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


def with_significant_bits(data: bytes, bits: int) -> bytes:
    body = b"sBIT" + bytes([bits])
    return data[:33] + struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def int16(values: np.ndarray) -> bytes:
    """A TIFF of signed 16-bit integers, which Pillow cannot write."""
    height, width = values.shape
    entries = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8 + 2 + 9 * 12 + 4)]
    entries += [(277, 3, 1), (278, 4, height), (279, 4, values.nbytes), (339, 3, 2)]
    offset = 8 + 2 + len(entries) * 12 + 4
    entries = [(tag, kind, offset if tag == 273 else value) for tag, kind, value in entries]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + struct.pack("<I", 0)
    return head + values.astype("<i2").tobytes()


def gray(low: float, high: float, stored: np.ndarray) -> np.ndarray:
    return np.rint(np.clip((stored.astype(float) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


CASES: list[tuple[np.ndarray, Any, tuple[float, float]]] = [
    (np.round(RAMP * 4080).astype(np.uint16), tiff, (0, 4095)),
    (np.round(RAMP * 1000).astype(np.uint16), png, (0, 1023)),
    (np.round(RAMP * 255).astype(np.uint16), png, (0, 255)),
    (np.round(RAMP * 65535).astype(np.uint16), tiff, (0, 65535)),
    ((RAMP * 2 - 1).astype(np.float32), tiff, (-1, 1)),
    (RAMP.astype(np.float32), tiff, (0, 1)),
    (np.round(RAMP * 4095 - 1024).astype(np.int16), int16, (-1024, 4095)),
    (np.round(RAMP * 2_000_000).astype(np.int32), tiff, (0, 2097151)),
]


@pytest.mark.parametrize(("stored", "encode", "bounds"), CASES)
def test_folder_table_stream_and_probe_show_the_same_pixels(stored, encode, bounds, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    # One image reaches the highest value; of the others each alone would be scaled another way.
    pictures = [encode((stored * share).astype(stored.dtype)) for share in (0.05, 0.3, 1, 0.5, 0.1, 0.7)]
    ending = "png" if encode is png else "tif"
    for split, chosen in (("train", pictures[:4]), ("test", pictures[4:])):
        for number, data in enumerate(chosen):
            folder = tmp_path / "f" / split / f"{number * 2 // len(chosen)}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.{ending}").write_bytes(data)
    (tmp_path / "t").mkdir()
    for split, chosen in (("train", pictures[:4]), ("test", pictures[4:])):
        table = pa.table({"image": chosen, "label": [number * 2 // len(chosen) for number in range(len(chosen))]})
        pq.write_table(table, tmp_path / "t" / f"{split}.parquet")
    expected = [gray(*bounds, (stored * share).astype(stored.dtype)) for share in (0.05, 0.3, 1, 0.5, 0.1, 0.7)]
    for root in (tmp_path / "f", tmp_path / "t"):
        train, test = (load_dataset(str(root), split) for split in ("train", "test"))
        shown = [train.load_pixels(index) for index in range(4)] + [test.load_pixels(index) for index in range(2)]
        for index, pixels in enumerate(shown):
            assert (pixels == np.array(train.load_image(index) if index < 4 else test.load_image(index - 4))).all()
            assert (pixels[..., 0] == expected[index]).all()
    images = (source := open_stream(str(tmp_path / "t"))).images()
    for row, cell in enumerate(source.cells(0)):
        assert (images.load_pixels(StreamRow(0, row, cell))[..., 0] == expected[row]).all()


def test_what_a_file_states_comes_before_what_is_measured_and_the_user_before_both() -> None:
    values = np.round(RAMP * 900).astype(np.uint16)
    measured = ValueRange(0, 16383)
    for data, stored, high in (
        (with_significant_bits(png(values), 12), values, 4095),
        (tiff(values, {281: 4000}), values, 4095),
        (tiff(values, {281: 65535}), values, 65535),
        (tiff(values), values, 16383),
        # Values beyond what a file states: it was scaled up, as the standard of PNG wants.
        (with_significant_bits(png(values * 40), 12), values * 40, 16383),
    ):
        assert (decode_pixels(data, None, measured)[..., 0] == gray(0, high, stored)).all()
    given = decode_pixels(tiff(values, {281: 4000}), None, ValueRange.parse("100,500"))
    assert (given[..., 0] == gray(100, 500, values)).all()


def test_colours_of_12_bits_are_not_black_and_of_16_as_ever() -> None:
    generator = np.random.default_rng(0)
    for measured in (4095, 65535):
        values = generator.integers(0, measured + 1, (9, 11, 3), dtype=np.uint16)
        pixels = np.asarray(decode_rgb(png(values), None, ValueRange(0, measured)))
        wanted = gray(0, 4095, values) if measured == 4095 else (values >> 8).astype(np.uint8)
        assert (pixels[..., ::-1] == wanted).all()


def test_a_dark_image_alone_stays_dark_unless_it_says_what_white_is() -> None:
    values = np.round(RAMP * 4000).astype(np.uint16)
    assert (decode_pixels(png(values))[..., 0] == gray(0, 65535, values)).all()
    assert (decode_pixels(tiff(values, {281: 4095}))[..., 0] == gray(0, 4095, values)).all()
    colours = np.stack([values] * 3, axis=-1)
    assert (decode_pixels(png(colours)) == colours >> 8).all()
    floats = (RAMP * 1.5).astype(np.float32)
    assert (decode_pixels(tiff(floats))[..., 0] == gray(0, 255, floats)).all()


def test_a_run_goes_on_with_the_pixels_with_which_it_began(tmp_path: Path) -> None:
    values = np.round(RAMP * 4000).astype(np.uint16)
    for split in ("train", "test"):
        for kind in ("a", "b"):
            (tmp_path / "f" / split / kind).mkdir(parents=True)
            (tmp_path / "f" / split / kind / "1.png").write_bytes(with_significant_bits(png(values), 12))
            (tmp_path / "f" / split / kind / "2.png").write_bytes(png(values))
    today = load_dataset(str(tmp_path / "f"))
    # As version 0.1 recorded it, which knew of no ranges.
    begun = load_image_folder(tmp_path / "f").description
    assert today.description.fingerprint != begun.fingerprint
    choice = DatasetChoice(str(tmp_path / "f"))
    for split in ("train", "pretraining"):
        earlier = load_recorded_images(choice, split, begun.to_dict(), lambda images: images)
        assert earlier.description == begun
        assert all((earlier.load_pixels(k)[..., 0] == gray(0, 65535, values)).all() for k in range(len(earlier)))
    new = load_recorded_images(choice, "train", None, lambda images: images)
    assert new.description == today.description
    assert load_dataset(DatasetChoice(str(tmp_path / "f"), value_range="each")).description == begun


@pytest.mark.parametrize("text", ["1,0", "a,b", "", "5,5", "0,nan", "1,2,3"])
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"--value-range .*such as 0,4095"):
        ValueRange.parse(text)


def test_a_range_holds_what_it_is_chosen_for() -> None:
    generator = np.random.default_rng(1)
    for _ in range(300):
        low, high = np.sort(generator.normal(size=2) * 10 ** generator.uniform(-1, 6))
        for is_float in (True, False):
            found = choose_range(np.floor(low), np.ceil(high), is_float)
            assert found.low <= np.floor(low) or low >= 0
            assert found.high >= np.ceil(high)


def test_the_flag_reaches_folders_and_is_part_of_what_the_data_are(tmp_path: Path) -> None:
    folder = tmp_path / "f" / "train" / "a"
    folder.mkdir(parents=True)
    values = np.round(RAMP * 4000).astype(np.uint16)
    (folder / "1.png").write_bytes(png(values))
    measured = load_dataset(str(tmp_path / "f"), "train")
    given = load_dataset(DatasetChoice(str(tmp_path / "f"), value_range="0,65535"), "train")
    assert (given.load_pixels(0)[..., 0] == gray(0, 65535, values)).all()
    assert (measured.load_pixels(0)[..., 0] == gray(0, 4095, values)).all()
    assert measured.description.split_rule.endswith("values 0 to 4095")
    assert measured.description.fingerprint != given.description.fingerprint


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [
        (-32768, 32767, (-32768, 32767)),
        (-2048, 2032, (-2048, 2047)),
        (-1000, 3000, (-1024, 4095)),
        (-100, 0, (-128, 0)),
        (-1, 1000, (-1, 1023)),
    ],
)
def test_integers_with_a_sign_use_all_levels(lowest: int, highest: int, expected: tuple[int, int]) -> None:
    found = choose_range(lowest, highest, is_float=False)
    assert (found.low, found.high) == expected


@pytest.mark.parametrize("nothing", [np.inf, -np.inf, np.nan, np.finfo(np.float32).min])
def test_what_was_not_measured_does_not_set_the_range(nothing: float, tmp_path: Path) -> None:
    values = (RAMP * 200).astype(np.float32)
    for number in range(2):
        values[0, number] = nothing
        (tmp_path / f"{number}.tif").write_bytes(tiff(values))
    pixels = load_dataset(tmp_path, "pretraining").load_pixels(1)[..., 0]
    assert pixels[0, :2].tolist() == [255 if nothing == np.inf else 0] * 2
    assert np.array_equal(pixels[1:], np.rint(values[1:]))
