import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.image_dataset import DatasetDescription, ImageDataset
from synco_hub.data.image_folder import load_image_folder
from synco_hub.data.image_subset import ImageSubset
from synco_hub.data.readable_image import readable_pixels
from synco_hub.data.streams.images import StreamedImages, StreamRow


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
    image, bad_index = readable_pixels(Damaged(10, {3}), 4)
    assert (which(image), bad_index) == (4, -1)


def test_a_damaged_image_has_a_fixed_good_stand_in() -> None:
    bad = {*range(0, 1000, 2)}
    stand_ins = []
    for index in sorted(bad):
        image, bad_index = readable_pixels(Damaged(1000, bad), index)
        assert bad_index == index
        assert which(image) not in bad
        stand_ins.append(which(image))
    again = [which(readable_pixels(Damaged(1000, bad), index)[0]) for index in sorted(bad)]
    assert stand_ins == again
    assert len(set(stand_ins)) > 250  # no single image stands in for all
    other_seed = [which(readable_pixels(Damaged(1000, bad), index, seed=1)[0]) for index in sorted(bad)]
    assert other_seed != stand_ins


def test_when_nothing_can_be_read() -> None:
    with pytest.raises(UnreadableImageError, match="nor any of 64 images in its place"):
        readable_pixels(Damaged(5, set(range(5))), 2)


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
            pixels, bad_index = readable_pixels(images, index, 3)
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
