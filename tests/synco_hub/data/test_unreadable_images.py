"""What stands in for a damaged image, and how many a run allows."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.evaluation_dataset import EvaluationDataset
from synco_hub.data.evaluation_transform import EvaluationTransform
from synco_hub.data.image_dataset import DatasetDescription, ImageDataset
from synco_hub.data.image_folder import load_image_folder
from synco_hub.data.streams.images import StreamedImages, StreamRow
from synco_hub.data.subsets import ImageSubset
from synco_hub.data.unreadable_images import TooManyBadImagesError, UnreadableImages, load_readable_pixels


class Files:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"f{index:04d}.jpg"


def test_distinct_images_are_counted_once() -> None:
    ledger = UnreadableImages(Files(1000), max_bad_fraction=0.01)
    for _ in range(50):
        ledger.record(torch.tensor([-1, 7, -1, 3]))
    ledger.record([3, -1])
    assert len(ledger) == 2
    assert ledger.indices == [3, 7]
    assert ledger.names() == ["f0003.jpg", "f0007.jpg"]
    assert "2 of 1000 images cannot be read: f0003.jpg, f0007.jpg" in ledger.summary()


def test_the_run_ends_above_the_share_and_not_at_it() -> None:
    ledger = UnreadableImages(Files(1000), max_bad_fraction=0.012)
    ledger.record(torch.arange(12))
    with pytest.raises(
        TooManyBadImagesError, match=r"13 of 1000 .*f0009\.jpg and 3 more; .*--max-bad-fraction"
    ) as caught:
        ledger.record(torch.tensor([12]))
    assert "f0010" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_the_default_is_one_percent_and_the_extremes_work() -> None:
    ledger = UnreadableImages(Files(200))
    ledger.record([0, 1])
    with pytest.raises(TooManyBadImagesError):
        ledger.record([2])
    strict = UnreadableImages(Files(10), 0.0)
    strict.record([-1, -1])
    with pytest.raises(TooManyBadImagesError):
        strict.record([0])
    UnreadableImages(Files(3), 1.0).record([0, 1, 2])


def test_nothing_bad() -> None:
    ledger = UnreadableImages(Files(10))
    ledger.record(torch.full((4,), -1))
    assert ledger.names() == []
    assert "good" in ledger.summary()


def test_limits_are_checked() -> None:
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match="max_bad_fraction"):
            UnreadableImages(Files(1), share)


class Damaged(ImageDataset):
    def __init__(self, size: int, bad: set[int]) -> None:
        super().__init__([-1] * size, [], DatasetDescription("toy", "toy", "train", size, 0, "all", ""))
        self.bad = bad

    def load_image(self, index: int) -> Image.Image:
        if index in self.bad:
            raise UnreadableImageError(self.name(index), "it is damaged")
        return Image.new("RGB", (1, 1), (index % 256, index // 256, 0))

    def name(self, index: int) -> str:
        return f"{index}.png"


def which(pixels: np.ndarray) -> int:
    red, green, _ = pixels[0, 0]
    return int(red) + 256 * int(green)


def test_a_good_image_is_itself() -> None:
    image, bad_index = load_readable_pixels(Damaged(10, {3}), 4)
    assert (which(image), bad_index) == (4, -1)


def test_a_damaged_image_has_a_fixed_good_stand_in() -> None:
    bad = {*range(0, 1000, 2)}
    stand_ins = []
    for index in sorted(bad):
        image, bad_index = load_readable_pixels(Damaged(1000, bad), index)
        assert bad_index == index
        assert which(image) not in bad
        stand_ins.append(which(image))
    again = [which(load_readable_pixels(Damaged(1000, bad), index)[0]) for index in sorted(bad)]
    assert stand_ins == again
    assert len(set(stand_ins)) > 250  # no single image stands in for all
    other_seed = [which(load_readable_pixels(Damaged(1000, bad), index, seed=1)[0]) for index in sorted(bad)]
    assert other_seed != stand_ins


def test_when_nothing_can_be_read() -> None:
    with pytest.raises(UnreadableImageError, match="nor any of 64 images in its place"):
        load_readable_pixels(Damaged(5, set(range(5))), 2)


def jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((40, 32), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


def test_pixels_are_those_of_the_image_and_so_are_stand_ins(tmp_path: Path) -> None:
    for number in range(12):
        data = jpeg(number)
        (tmp_path / f"{number:02}.jpg").write_bytes(data[: len(data) // 2] if number % 4 == 1 else data)
    folder = load_image_folder(tmp_path)
    for images in (folder, ImageSubset(folder, np.arange(11, -1, -1), folder.description), Damaged(12, {2, 5})):
        readable = {}
        for index in range(len(images)):
            with contextlib.suppress(UnreadableImageError):
                readable[index] = np.asarray(images.load_image(index))
        assert len(readable) < len(images)
        for index in range(len(images)):
            pixels, bad_index = load_readable_pixels(images, index, 3)
            assert (bad_index == -1) == (index in readable)
            # A stand-in is one of the others.
            candidates = readable.values() if bad_index == index else [readable[index]]
            assert any(np.array_equal(pixels, image) for image in candidates)


def test_pixels_of_a_streams_rows() -> None:
    images = StreamedImages(["a.parquet"], DatasetDescription("s", "s", "train", 3, 0, "all", ""))
    for cell in (jpeg(1), {"bytes": jpeg(2), "path": None}):
        row = StreamRow(0, 1, cell)
        assert np.array_equal(images.load_pixels(row), np.asarray(images.load_image(row)))
    for cell in (None, b"damaged", 7):
        with pytest.raises(UnreadableImageError, match=r"a\.parquet, row 1"):
            images.load_pixels(StreamRow(0, 1, cell))


def test_reasons_are_told_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "a.jpg").write_bytes(b"<html>not found</html>")
    (tmp_path / "b.jpg").write_bytes(b"<html>not found</html>")
    for name, length in (("c.jpg", 700), ("d.jpg", 710), ("e.jpg", 720)):
        (tmp_path / name).write_bytes(jpeg(7)[:length])
    images = load_image_folder(tmp_path)
    for dataset in (images, ImageSubset(images, np.arange(11), ""), EvaluationDataset(images, EvaluationTransform(8))):
        ledger = UnreadableImages(dataset, 1.0)
        ledger.record(torch.tensor([-1, 6, 7, 8, -1, 9, 10]))
        summary = ledger.summary()
        assert summary.startswith("5 of 11 images cannot be read: 3 × ")
        assert "truncated" in summary
        assert "(c.jpg, d.jpg, e.jpg); 2 × it is a web page, as of a download that failed (a.jpg, b.jpg)" in summary
    assert "unreadable image skipped: a.jpg (it is a web page" in caplog.text
    with pytest.raises(TooManyBadImagesError, match="it is a web page"):
        UnreadableImages(images, 0.1).record([6, 7])
